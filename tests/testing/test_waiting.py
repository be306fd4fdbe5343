"""Spans that end elsewhere: in threads, tasks and other processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import spakky.tracing
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import JsonLinesRecorder
from spakky.tracing.testing import recorded_traces
from spakky.tracing.tracer import set_tracer
from testing.shop import SHOP, process, send

if TYPE_CHECKING:
    from pathlib import Path

    from spakky.tracing.testing import Traces

WORKER = """
import sys
from testing.shop import process
process({"topic": "orders", "traceparent": sys.argv[1]})
"""


def search_path() -> str:
    here = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
    sources = os.path.dirname(os.path.dirname(os.path.dirname(spakky.tracing.__file__)))  # noqa: PTH120
    return os.pathsep.join([sources, here])


def start_worker(message: dict[str, str], **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORKER, message["traceparent"]]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search_path(), **variables})


def test_a_process_that_the_test_starts_is_recorded(traces: Traces) -> None:
    order = send()
    with start_worker(order) as worker:
        spans = traces.wait_for("process orders")

    traces.of("send orders", "process orders").must_be_a_chain()
    assert (spans[0].process, spans[0].process_id) == ("-c", worker.pid)
    assert traces.span(process="-c") == spans[0]


def test_a_process_that_is_forked_is_recorded(traces: Traces) -> None:
    order = send()
    child = multiprocessing.get_context("fork").Process(target=process, args=(order,))
    child.start()
    spans = traces.wait_for("process orders")
    child.join()

    traces.of("send orders", "process orders").must_be_a_chain()
    assert spans[0].process_id == child.pid


def test_a_process_that_runs_already_is_recorded_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.jsonl"
    with recorded_traces(file=file) as traces:
        order = send()
        with start_worker(order, SPAKKY_TRACING_RECORD=str(file)):
            traces.wait_for("process orders", process="-c")
    with recorded_traces(file=file) as traces:
        assert traces.spans == []  # what is there already is of another test


def test_the_file_of_the_test_can_be_handed_over(traces: Traces) -> None:
    order = send()
    with start_worker(order, SPAKKY_TRACING_RECORD=str(traces.file)):
        traces.wait_for("process orders")


def test_the_file_is_gone_afterwards() -> None:
    with recorded_traces() as traces:
        assert traces.file.exists()

    assert not traces.file.exists()


def test_a_thread_is_waited_for(traces: Traces) -> None:
    order = send()
    threading.Timer(0.05, process, [order]).start()

    assert len(traces.wait_for("send orders", "process orders")) == 2


def test_what_does_not_come_is_told(traces: Traces) -> None:
    send()
    with pytest.raises(AssertionError) as caught:
        traces.wait_for("send orders", "process orders", count=2, timeout=0.05, system="shop")

    assert str(caught.value).splitlines()[0] == (
        "after 0.05 seconds there are 1 of 2 for 'send orders', 0 of 2 for 'process orders'"
        " with system 'shop'; recorded were:"
    )


async def test_a_task_is_waited_for(traces: Traces) -> None:
    async def work() -> None:
        await asyncio.sleep(0.02)
        process(order)

    order = send()
    task = asyncio.create_task(work())
    with pytest.raises(WrongUseError, match="wait_for would block the event loop"):
        traces.wait_for("process orders")
    await traces.wait_for_async("process orders")
    await task

    with pytest.raises(AssertionError, match=r"after 0\.02 seconds there are 0 of 1 for 'x'"):
        await traces.wait_for_async("x", timeout=0.02)


def test_a_span_of_a_thread_may_end_after_the_test() -> None:
    with recorded_traces():
        processing = SHOP.process(send()).open()
        threading.Timer(0.05, processing.close, ["ok"]).start()
        processing.pause()


async def test_a_span_of_a_task_may_end_after_the_test() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        with SHOP.process(send()):
            begun.set()
            await asyncio.sleep(0.05)

    async with recorded_traces():
        task = asyncio.create_task(work())
        await begun.wait()
    assert task.done()


async def test_a_task_that_never_ends_is_named() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        with SHOP.process(send()):
            begun.set()
            await asyncio.Event().wait()

    async def leak() -> None:
        async with recorded_traces():
            tasks.append(asyncio.create_task(work(), name="mine"))
            await begun.wait()

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(
        AssertionError, match=r"never ended:\n  'process orders' .*, started in the task 'mine' of"
    ):
        await leak()
    tasks[0].cancel()


def test_a_block_that_raises_says_nothing_of_leaks() -> None:
    def leak() -> None:
        with recorded_traces():
            SHOP.process(send()).open().pause()
            raise KeyError

    with pytest.raises(KeyError):
        leak()


def test_a_block_records_once() -> None:
    block = recorded_traces()
    with block, pytest.raises(WrongUseError, match="records already"):
        block.__enter__()
    with pytest.raises(WrongUseError, match="was not entered"):
        block.__exit__(None, None, None)


def test_a_recorder_and_the_user_s_variable_of_it_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "theirs.jsonl"
    monkeypatch.setenv("SPAKKY_TRACING_RECORD", str(file))
    theirs = JsonLinesRecorder(file)
    set_tracer(theirs)
    try:
        with recorded_traces() as traces:
            order = send()
            child = multiprocessing.get_context("fork").Process(target=process, args=(order,))
            child.start()
            child.join()
            assert len(traces.spans) == 2
    finally:
        set_tracer(None)
        theirs.close()

    assert os.environ["SPAKKY_TRACING_RECORD"] == str(file)
    assert len(file.read_text().splitlines()) == 2
