"""structlog, as it is configured for real."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.handlers
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.logging import install, uninstall
from spakky.tracing.integrations.structlog import add_trace_context

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = ("trace_id", "span_id", "trace_flags")


def expected(context: TraceContext) -> dict[str, str]:
    return {
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "trace_flags": f"{context.trace_flags:02x}",
    }


@pytest.fixture
def root() -> TraceContext:
    return TraceContext.new_root()


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Configure structlog to write JSON there."""
    stream = io.StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_trace_context,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    yield stream
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def events(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_an_event_has_the_ids_of_the_current_trace(written: io.StringIO, root: TraceContext) -> None:
    with TraceContext.use(root):
        structlog.get_logger().info("paid", order=7)

    assert events(written) == [{"event": "paid", "order": 7, **expected(root)}]


def test_an_event_outside_of_any_trace_has_no_keys(written: io.StringIO) -> None:
    structlog.get_logger().info("idle")

    assert events(written) == [{"event": "idle"}]


def test_a_processor_behind_it_can_set_placeholders(written: io.StringIO, root: TraceContext) -> None:
    def placeholders(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**dict.fromkeys(FIELDS, "-"), **event}

    structlog.configure(processors=[add_trace_context, placeholders, structlog.processors.JSONRenderer()])
    structlog.get_logger().info("idle")
    with TraceContext.use(root):
        structlog.get_logger().info("paid")

    assert events(written) == [
        {**dict.fromkeys(FIELDS, "-"), "event": "idle"},
        {"event": "paid", **expected(root)},
    ]


def test_what_is_bound_or_said_in_the_call_stays_and_is_not_mixed(
    written: io.StringIO, root: TraceContext
) -> None:
    log = structlog.get_logger()
    with TraceContext.use(root):
        log.bind(trace_id="bound").info("paid")
        log.info("paid", span_id="said")
        with structlog.contextvars.bound_contextvars(trace_id=None):
            log.info("paid")

    assert events(written) == [
        {"event": "paid", "trace_id": "bound"},
        {"event": "paid", "span_id": "said"},
        {"event": "paid", "trace_id": None},
    ]


def test_a_logger_that_is_bound_in_a_trace_does_not_take_its_ids_along(
    written: io.StringIO, root: TraceContext
) -> None:
    with TraceContext.use(root):
        log = structlog.get_logger().bind(order=7)
        log.info("inside")
    log.info("outside")

    inside, outside = events(written)
    assert inside == {"order": 7, "event": "inside", **expected(root)}
    assert outside == {"order": 7, "event": "outside"}


def test_asynchronous_methods_log_in_the_trace_of_their_task(written: io.StringIO) -> None:
    roots = [TraceContext.new_root() for _ in range(10)]

    async def serve(root: TraceContext, together: asyncio.Barrier) -> None:
        with TraceContext.use(root):
            await together.wait()
            await structlog.get_logger().ainfo(root.trace_id)

    async def main() -> None:
        together = asyncio.Barrier(len(roots))
        await asyncio.gather(*(serve(root, together) for root in roots))

    asyncio.run(main())

    assert {event["event"] for event in events(written)} == {root.trace_id for root in roots}
    assert all(event["event"] == event["trace_id"] for event in events(written))


def test_threads_do_not_mix(written: io.StringIO) -> None:
    together = threading.Barrier(4)

    def serve(root: TraceContext) -> None:
        with TraceContext.use(root):
            together.wait()
            copy_context().run(structlog.get_logger().info, root.trace_id)
        structlog.get_logger().info("outside")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(serve, [TraceContext.new_root() for _ in range(4)]))

    inside = [event for event in events(written) if event["event"] != "outside"]
    assert len(inside) == 4
    assert all(event["event"] == event["trace_id"] for event in inside)
    assert events(written).count({"event": "outside"}) == 4


class TestFormatterOfStructlog:
    """Lines of the standard library that structlog formats, in the thread of a `QueueListener`."""

    @pytest.fixture
    def log(self) -> Iterator[logging.Logger]:
        logger = logging.getLogger("shop.structlog")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        yield logger
        uninstall()

    def test_in_the_foreign_chain_it_serves_the_standard_library(
        self, log: logging.Logger, root: TraceContext
    ) -> None:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter(add_trace_context))
        log.addHandler(handler)

        with TraceContext.use(root):
            log.info("paid")
        log.removeHandler(handler)

        assert events(stream) == [{"event": "paid", **expected(root)}]

    def test_behind_a_queue_it_takes_what_the_record_brings(
        self, log: logging.Logger, root: TraceContext
    ) -> None:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter(structlog.stdlib.ExtraAdder(allow=FIELDS)))
        lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        sending, listener = (
            logging.handlers.QueueHandler(lines),
            logging.handlers.QueueListener(lines, handler),
        )
        log.addHandler(sending)
        listener.start()
        install()

        with TraceContext.use(root):
            log.info("paid")
        listener.stop()
        log.removeHandler(sending)

        assert events(stream) == [{"event": "paid", **expected(root)}]


def formatter(processor: Any) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[processor],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
