"""loguru, as it is configured for real."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
from loguru import logger

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.loguru import add_trace_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loguru import Record

FORMAT = "{extra[trace_id]} {extra[span_id]} {extra[trace_flags]} {message}"


@pytest.fixture
def root() -> TraceContext:
    return TraceContext.new_root()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Let loguru write its lines there."""
    written: list[str] = []
    logger.remove()
    logger.configure(patcher=add_trace_context)
    logger.add(written.append, format=FORMAT, catch=False)
    yield written
    logger.remove()
    logger.configure(patcher=do_nothing, extra={})


def do_nothing(record: Record) -> None:
    """Stand for a patcher: loguru cannot take one away again."""


def test_a_line_has_the_ids_of_the_current_trace(lines: list[str], root: TraceContext) -> None:
    with TraceContext.use(root):
        logger.info("paid {}", 7)

    assert lines == [f"{root.trace_id} {root.span_id} 01 paid 7\n"]


def test_a_line_outside_of_any_trace_has_the_placeholder(lines: list[str]) -> None:
    logger.info("idle")

    assert lines == ["- - - idle\n"]


@pytest.mark.parametrize("placeholder", ["", "none", None])
def test_the_placeholder_can_be_chosen(lines: list[str], placeholder: str | None) -> None:
    logger.configure(patcher=partial(add_trace_context, placeholder=placeholder))

    logger.info("idle")

    assert lines == [f"{placeholder} {placeholder} {placeholder} idle\n"]


def test_what_is_bound_or_said_in_the_call_stays_and_is_not_mixed(
    lines: list[str], root: TraceContext
) -> None:
    with TraceContext.use(root):
        logger.bind(trace_id="bound").info("paid")
        logger.info("paid by {trace_id}", trace_id="said")
        with logger.contextualize(span_id="around"):
            logger.info("paid")
        logger.configure(extra={"trace_flags": "configured"})
        logger.info("paid")

    assert lines == [
        "bound - - paid\n",
        "said - - paid by said\n",
        "- around - paid\n",
        "- - configured paid\n",
    ]


def test_a_logger_that_is_bound_in_a_trace_does_not_take_its_ids_along(
    lines: list[str], root: TraceContext
) -> None:
    with TraceContext.use(root):
        bound = logger.bind(order=7)
        bound.info("inside")
    bound.info("outside")

    assert lines == [f"{root.trace_id} {root.span_id} 01 inside\n", "- - - outside\n"]


def test_a_patcher_of_one_logger_serves_that_one(lines: list[str], root: TraceContext) -> None:
    logger.configure(patcher=lambda record: record["extra"].update(order=7))
    logger.remove()
    logger.add(lines.append, format=FORMAT + " {extra[order]}", catch=False)

    with TraceContext.use(root):
        logger.patch(add_trace_context).info("paid")

    assert lines == [f"{root.trace_id} {root.span_id} 01 paid 7\n"]


def test_a_line_that_another_thread_writes_has_the_ids_of_who_logs(
    lines: list[str], root: TraceContext
) -> None:
    logger.remove()
    logger.add(lines.append, format=FORMAT, enqueue=True)

    with TraceContext.use(root):
        logger.info("paid")
    logger.complete()

    assert lines == [f"{root.trace_id} {root.span_id} 01 paid\n"]


def test_a_traceback_is_logged_in_the_trace_of_its_handler(lines: list[str], root: TraceContext) -> None:
    @logger.catch(message="it is not there")
    def fail() -> None:
        _ = dict[str, str]()["shelf"]

    with TraceContext.use(root):
        fail()

    assert lines[0].startswith(f"{root.trace_id} {root.span_id} 01 it is not there\n")
    assert "KeyError: 'shelf'" in lines[0]


def test_tasks_of_asyncio_do_not_mix(lines: list[str]) -> None:
    roots = [TraceContext.new_root() for _ in range(10)]

    async def serve(root: TraceContext, together: asyncio.Barrier) -> None:
        with TraceContext.use(root):
            await together.wait()
            logger.info(root.trace_id)

    async def main() -> None:
        together = asyncio.Barrier(len(roots))
        await asyncio.gather(*(serve(root, together) for root in roots))

    asyncio.run(main())

    assert sorted(lines) == sorted(f"{r.trace_id} {r.span_id} 01 {r.trace_id}\n" for r in roots)


def test_threads_do_not_mix(lines: list[str]) -> None:
    roots = [TraceContext.new_root() for _ in range(4)]
    together = threading.Barrier(len(roots))

    def serve(root: TraceContext) -> None:
        with TraceContext.use(root):
            together.wait()
            logger.info(root.trace_id)
        logger.info("outside")

    with ThreadPoolExecutor(len(roots)) as pool:
        list(pool.map(serve, roots))

    inside = [f"{r.trace_id} {r.span_id} 01 {r.trace_id}\n" for r in roots]
    assert sorted(lines) == sorted([*inside, *["- - - outside\n"] * len(roots)])
