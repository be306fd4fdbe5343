"""The standard library's logging: a filter, and a factory for records."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import logging.config
import logging.handlers
import pickle
import queue
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations.logging import TraceFilter, install, uninstall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIELDS = ("trace_id", "span_id", "trace_flags")
NO_TRACE = ("-", "-", "-")
LINE = "%(trace_id)s %(span_id)s %(trace_flags)s %(message)s"


class Kept(logging.Handler):
    """Keeps the records that it gets, formatted as a real handler does."""

    def __init__(self, line: str = LINE) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(line))
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        self.records.append(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of the base class
        raise AssertionError

    def ids(self) -> list[tuple[Any, ...]]:
        return [ids_of(record) for record in self.records]


def ids_of(record: logging.LogRecord) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in FIELDS)


def expected(context: TraceContext) -> tuple[str, str, str]:
    return context.trace_id, context.span_id, f"{context.trace_flags:02x}"


@pytest.fixture
def root() -> TraceContext:
    return TraceContext.new_root()


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def log(kept: Kept) -> Iterator[logging.Logger]:
    logger = logging.getLogger(f"shop-{uuid4().hex}")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(kept)
    yield logger
    logger.removeHandler(kept)
    del logging.Logger.manager.loggerDict[logger.name]


@pytest.fixture(autouse=True)
def factory_before() -> Iterator[Callable[..., logging.LogRecord]]:
    before: Callable[..., logging.LogRecord] = logging.getLogRecordFactory()
    yield before
    uninstall()
    is_undone = logging.getLogRecordFactory() is before
    logging.setLogRecordFactory(before)
    assert is_undone


@pytest.fixture(params=["filter", "factory", "both"])
def marked(request: pytest.FixtureRequest, kept: Kept) -> None:
    """Mark what is logged in each of the ways."""
    if request.param in {"filter", "both"}:
        kept.addFilter(TraceFilter())
    if request.param in {"factory", "both"}:
        install()


@pytest.mark.usefixtures("marked")
class TestEitherWay:
    def test_a_line_has_the_ids_of_the_current_trace(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        with TraceContext.use(root):
            log.info("paid")

        assert kept.lines == [f"{root.trace_id} {root.span_id} 01 paid"]

    def test_a_line_outside_of_any_trace_has_the_placeholder(self, log: logging.Logger, kept: Kept) -> None:
        log.info("idle")

        assert kept.lines == ["- - - idle"]

    @pytest.mark.parametrize(("flags", "text"), [(0, "00"), (1, "01"), (3, "03"), (0xFF, "03")])
    def test_flags_are_as_in_a_traceparent(
        self, log: logging.Logger, kept: Kept, root: TraceContext, flags: int, text: str
    ) -> None:
        with TraceContext.use(
            TraceContext(trace_id=root.trace_id, span_id=root.span_id, trace_flags=flags)
        ) as context:
            log.info("paid")

        assert context is not None
        assert context.to_traceparent().endswith(f"-{text}")
        assert kept.ids() == [(root.trace_id, root.span_id, text)]

    def test_a_line_before_and_after_a_span_belongs_to_the_span_around(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        child = root.child()
        with TraceContext.use(root):
            log.info("before")
            with TraceContext.use(child):
                log.info("inside")
            log.info("after")
        log.info("outside")

        assert kept.ids() == [expected(root), expected(child), expected(root), NO_TRACE]

    def test_tasks_of_asyncio_do_not_mix(self, log: logging.Logger, kept: Kept) -> None:
        roots = [TraceContext.new_root() for _ in range(20)]

        async def serve(root: TraceContext, together: asyncio.Barrier) -> None:
            with TraceContext.use(root):
                await together.wait()
                log.info(root.trace_id)
                await asyncio.create_task(serve_below(root))

        async def serve_below(root: TraceContext) -> None:
            await asyncio.sleep(0)
            log.info(root.trace_id)

        async def main() -> None:
            together = asyncio.Barrier(len(roots))
            await asyncio.gather(*(serve(root, together) for root in roots))
            log.info("-")

        asyncio.run(main())

        assert len(kept.records) == 2 * len(roots) + 1
        assert [record.getMessage() for record in kept.records] == [ids[0] for ids in kept.ids()]

    def test_threads_do_not_mix(self, log: logging.Logger, kept: Kept) -> None:
        together = threading.Barrier(8)

        def serve(root: TraceContext) -> None:
            with TraceContext.use(root):
                together.wait()
                for _ in range(50):
                    log.info(root.trace_id)
            log.info("-")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(serve, [TraceContext.new_root() for _ in range(8)]))

        assert len(kept.records) == 8 * 51
        assert [record.getMessage() for record in kept.records] == [ids[0] for ids in kept.ids()]

    def test_a_thread_that_is_given_the_context_logs_in_it(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        with TraceContext.use(root), ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, log.info, "given").result()
            asyncio.run(asyncio.to_thread(log.info, "given"))

        assert kept.ids() == [expected(root)] * 2

    def test_a_generator_logs_in_the_trace_of_who_steps_it(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        def steps() -> Iterator[None]:
            for _ in range(2):
                log.info("a step")
                yield

        stepped = steps()
        with TraceContext.use(root):
            next(stepped)
        next(stepped)

        assert kept.ids() == [expected(root), NO_TRACE]

    def test_a_traceback_is_logged_in_the_trace_of_its_handler(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        with TraceContext.use(root):
            try:
                _ = dict[str, str]()["shelf"]
            except KeyError:
                log.exception("it is not there")

        first, *_, last = kept.lines[0].splitlines()
        assert first == f"{root.trace_id} {root.span_id} 01 it is not there"
        assert last == "KeyError: 'shelf'"

    def test_what_extra_says_stays(self, log: logging.Logger, kept: Kept, root: TraceContext) -> None:
        with TraceContext.use(root):
            log.info("paid", extra={"trace_id": "mine", "span_id": "mine too", "order": 7})

        assert ids_of(kept.records[0])[:2] == ("mine", "mine too")
        assert vars(kept.records[0])["order"] == 7

    def test_who_looks_at_the_attributes_of_a_record_finds_the_fields(
        self, log: logging.Logger, kept: Kept
    ) -> None:
        log.info("idle")

        assert [name in vars(kept.records[0]) for name in (*FIELDS, "msg", "order")] == [True] * 4 + [False]

    def test_what_extra_may_not_say_raises_as_ever(self, log: logging.Logger) -> None:
        for name in ("message", "asctime", "levelname", "msg"):
            with pytest.raises(KeyError, match=f"Attempt to overwrite '{name}' in LogRecord"):
                log.info("paid", extra={name: "mine"})

    def test_every_style_of_format_finds_the_fields(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        formatters = [
            logging.Formatter("%(trace_id)s %(message)s"),
            logging.Formatter("{trace_id} {message}", style="{"),
            logging.Formatter("${trace_id} ${message}", style="$"),
            logging.Formatter("%(trace_id)s %(message)s", defaults={"trace_id": "default"}),
        ]
        with TraceContext.use(root):
            for formatter in formatters:
                kept.setFormatter(formatter)
                log.info("paid")

        assert kept.lines == [f"{root.trace_id} paid"] * len(formatters)

    def test_a_formatter_that_writes_json_finds_the_fields(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        class Json(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                return json.dumps({name: value for name, value in vars(record).items() if name != "args"})

        kept.setFormatter(Json())
        with TraceContext.use(root):
            log.info("paid", extra={"order": 7})

        (line,) = map(json.loads, kept.lines)
        assert {name: line[name] for name in (*FIELDS, "order", "msg")} == {
            **dict(zip(FIELDS, expected(root), strict=True)),
            "order": 7,
            "msg": "paid",
        }

    def test_a_copy_of_a_record_and_one_that_was_pickled_have_the_ids(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        with TraceContext.use(root):
            log.info("paid %d", 7)
        (record,) = kept.records

        copies = [copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))]  # noqa: S301 - ours

        assert [vars(each) for each in copies] == [vars(record)] * 3
        assert [type(vars(each)) for each in copies] == [dict] * 3

    def test_who_unpickles_a_record_needs_nothing_of_ours(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        with TraceContext.use(root):
            log.info("paid")
        look = (
            "import pickle, sys\nprint(pickle.load(sys.stdin.buffer).trace_id)\n"
            "print([name for name in sys.modules if name.startswith('spakky')])"
        )

        output = subprocess.run(
            [sys.executable, "-I", "-c", look],
            input=pickle.dumps(kept.records[0]),
            capture_output=True,
            check=True,
        ).stdout

        assert output.decode().splitlines() == [root.trace_id, "[]"]


class TestFilter:
    def test_it_stands_in_a_dict_config(self, root: TraceContext, capsys: pytest.CaptureFixture[str]) -> None:
        name = f"shop-{uuid4().hex}"
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "incremental": False,
            "filters": {
                "trace": {"()": "spakky.tracing.integrations.logging.TraceFilter"},
                "none": {"()": "spakky.tracing.integrations.logging.TraceFilter", "placeholder": "none"},
            },
            "formatters": {"line": {"format": LINE}},
            "handlers": {
                kind: {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "filters": [kind],
                    "formatter": "line",
                }
                for kind in ("trace", "none")
            },
            "loggers": {
                name: {"handlers": ["trace"], "propagate": False},
                f"{name}.none": {"handlers": ["none"], "propagate": False},
            },
        }
        logging.config.dictConfig(config)
        with TraceContext.use(root):
            logging.getLogger(f"{name}.below").warning("paid")
        logging.getLogger(f"{name}.below").warning("idle")
        logging.getLogger(f"{name}.none").warning("idle")

        assert capsys.readouterr().out.splitlines() == [
            f"{root.trace_id} {root.span_id} 01 paid",
            "- - - idle",
            "none none none idle",
        ]

    @pytest.mark.parametrize("placeholder", ["", "0", "no trace", None])
    def test_the_placeholder_may_be_any_text_or_none(
        self, log: logging.Logger, kept: Kept, placeholder: str | None
    ) -> None:
        kept.addFilter(TraceFilter(placeholder=placeholder))

        log.info("idle")

        assert kept.ids() == [(placeholder,) * 3]

    @pytest.mark.parametrize("wrong", [0, b"-", ["-"]])
    def test_a_placeholder_of_another_type_is_refused_at_once(self, wrong: Any) -> None:
        sentence = f"^placeholder takes a str or None, got {type(wrong).__name__}$"

        with pytest.raises(WrongUseError, match=sentence):
            TraceFilter(placeholder=wrong)
        with pytest.raises(WrongUseError, match=sentence):
            install(placeholder=wrong)

    def test_every_record_passes(self) -> None:
        assert TraceFilter().filter(logging.makeLogRecord({})) is True

    def test_the_first_filter_that_sees_a_record_counts(self, log: logging.Logger, kept: Kept) -> None:
        kept.addFilter(TraceFilter(placeholder="first"))
        kept.addFilter(TraceFilter(placeholder="second"))

        log.info("idle")

        assert kept.ids() == [("first",) * 3]

    def test_ids_of_two_traces_are_not_mixed(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        kept.addFilter(TraceFilter())

        with TraceContext.use(root):
            log.info("forwarded", extra={"trace_id": "another"})
            log.info("forwarded", extra={"span_id": "another"})

        assert kept.ids() == [("another", "-", "-"), ("-", "another", "-")]

    def test_on_a_queue_handler_it_sees_the_trace_of_who_logs(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        with listening(log, kept) as handler:
            handler.addFilter(TraceFilter())
            with TraceContext.use(root):
                log.info("paid %d", 7)
            log.info("idle")

        assert kept.lines == [f"{root.trace_id} {root.span_id} 01 paid 7", "- - - idle"]


class TestFactory:
    def test_records_of_another_thread_s_handler_have_the_ids_of_who_logs(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        install()
        kept.addFilter(TraceFilter(placeholder="of the listener"))

        with listening(log, kept):
            with TraceContext.use(root):
                log.info("paid %d", 7)
            log.info("idle")

        assert kept.lines == [f"{root.trace_id} {root.span_id} 01 paid 7", "- - - idle"]

    def test_what_extra_says_stays_below_a_factory_that_came_later(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        install()
        ours = logging.getLogRecordFactory()
        logging.setLogRecordFactory(saying(ours, order="7"))
        with TraceContext.use(root):
            log.info("paid", extra={"trace_id": "mine"})
        logging.setLogRecordFactory(ours)

        assert kept.ids() == [("mine", root.span_id, "01")]

    def test_installing_twice_is_installing_once(
        self, log: logging.Logger, kept: Kept, factory_before: object
    ) -> None:
        install()
        factory = logging.getLogRecordFactory()
        install(placeholder="none")

        log.info("idle")

        assert logging.getLogRecordFactory() is factory
        assert kept.ids() == [("none",) * 3]
        uninstall()
        assert logging.getLogRecordFactory() is factory_before

    def test_uninstalling_what_is_not_installed_changes_nothing(self, factory_before: object) -> None:
        uninstall()
        uninstall()

        assert logging.getLogRecordFactory() is factory_before

    def test_after_uninstalling_records_are_as_without_us(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        kept.setFormatter(logging.Formatter("%(message)s"))
        log.info("before")
        install()
        uninstall()
        with TraceContext.use(root):
            log.info("afterwards")

        before, afterwards = map(vars, kept.records)
        assert list(before) == list(afterwards)
        assert type(afterwards) is dict

    def test_the_factory_that_was_there_makes_the_records(self, log: logging.Logger, kept: Kept) -> None:
        class Special(logging.LogRecord):
            pass

        logging.setLogRecordFactory(Special)
        install()
        log.info("idle")
        uninstall()

        assert type(kept.records[0]) is Special
        assert kept.ids() == [NO_TRACE]
        assert logging.getLogRecordFactory() is Special
        logging.setLogRecordFactory(logging.LogRecord)

    def test_what_an_earlier_factory_says_of_the_trace_stays(self, log: logging.Logger, kept: Kept) -> None:
        logging.setLogRecordFactory(saying(logging.LogRecord, trace_id="theirs"))
        install()

        log.info("idle")

        assert kept.ids() == [("theirs", "-", "-")]
        uninstall()
        logging.setLogRecordFactory(logging.LogRecord)

    def test_a_factory_that_came_later_keeps_working_when_ours_is_taken_out_first(
        self, log: logging.Logger, kept: Kept, factory_before: Callable[..., logging.LogRecord]
    ) -> None:
        kept.setFormatter(logging.Formatter("%(order)s %(message)s"))
        install()
        ours = logging.getLogRecordFactory()
        logging.setLogRecordFactory(saying(ours, order="7"))
        uninstall()
        log.info("theirs works")
        logging.setLogRecordFactory(ours)  # as who came later undoes it
        kept.setFormatter(logging.Formatter("%(message)s"))
        log.info("ours is back, and does nothing")
        uninstall()

        assert kept.lines == ["7 theirs works", "ours is back, and does nothing"]
        assert not any(hasattr(record, name) for record in kept.records for name in FIELDS)
        assert logging.getLogRecordFactory() is factory_before

    def test_installing_again_above_a_factory_that_came_later_can_be_undone_in_any_order(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        install()
        below = logging.getLogRecordFactory()
        theirs = saying(below, order="7")
        logging.setLogRecordFactory(theirs)
        install(placeholder="none")
        log.info("above and below")
        logging.setLogRecordFactory(below)  # theirs is undone, and takes ours above along
        with TraceContext.use(root):
            log.info("below")
        log.info("below")
        uninstall()

        assert kept.ids() == [("none",) * 3, expected(root), ("none",) * 3]

    def test_installing_again_helps_when_another_factory_has_replaced_ours(
        self, log: logging.Logger, kept: Kept, factory_before: Callable[..., logging.LogRecord]
    ) -> None:
        install()
        logging.setLogRecordFactory(factory_before)  # as who was there earlier undoes it
        install()

        log.info("idle")

        assert kept.ids() == [NO_TRACE]

    def test_factories_do_not_pile_up(self, factory_before: object) -> None:
        for _ in range(3):
            install()
            theirs = saying(logging.getLogRecordFactory(), order="7")
            logging.setLogRecordFactory(theirs)
            uninstall()
            logging.setLogRecordFactory(vars(theirs)["inner"])
        uninstall()

        assert logging.getLogRecordFactory() is factory_before

    def test_a_record_from_elsewhere_keeps_its_ids_and_gets_none_of_here(self, root: TraceContext) -> None:
        install()
        ids = dict(zip(FIELDS, expected(TraceContext.new_root()), strict=True))

        with TraceContext.use(root):
            with_ids = logging.makeLogRecord({"msg": "paid", **ids})
            without = logging.makeLogRecord({"msg": "paid"})

        assert ids_of(with_ids) == tuple(ids.values())
        assert ids_of(without) == NO_TRACE
        assert without.getMessage() == "paid"

    def test_a_record_that_a_socket_handler_sends_has_the_ids(
        self, log: logging.Logger, kept: Kept, root: TraceContext
    ) -> None:
        install()
        with TraceContext.use(root):
            log.info("paid %d", 7)
        handler = logging.handlers.SocketHandler("localhost", 0)

        sent = pickle.loads(handler.makePickle(kept.records[0])[4:])  # noqa: S301 - it is ours
        handler.close()

        assert type(sent) is dict
        assert ids_of(logging.makeLogRecord(sent)) == expected(root)

    def test_warnings_that_are_captured_have_the_ids(self, kept: Kept, root: TraceContext) -> None:
        install()
        log = logging.getLogger("py.warnings")
        log.addHandler(kept)
        logging.captureWarnings(True)  # noqa: FBT003 - as the library has it
        try:
            with TraceContext.use(root), warnings.catch_warnings():
                warnings.simplefilter("always")
                logging.captureWarnings(False)  # noqa: FBT003 - catching has put the library's own function back
                logging.captureWarnings(True)  # noqa: FBT003 - likewise
                warnings.warn("it is old", UserWarning, stacklevel=1)
        finally:
            logging.captureWarnings(False)  # noqa: FBT003 - as the library has it
            log.removeHandler(kept)

        assert kept.ids() == [expected(root)]

    def test_without_any_handler_a_warning_is_written_as_ever(self) -> None:
        code = (
            "import logging\n"
            "from spakky.tracing.integrations.logging import install\n"
            "install()\n"
            "logging.getLogger('shop').warning('idle %d', 7)\n"
            "logging.getLogger('shop').warning('%d', 'no number')\n"
        )

        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        first, second, *_ = finished.stderr.splitlines()
        assert (first, second) == ("idle 7", "--- Logging error ---")
        assert "TypeError: %d format: a real number is required, not str" in finished.stderr

    def test_arguments_may_be_given_by_name(self, factory_before: object) -> None:
        install()

        record: logging.LogRecord = logging.getLogRecordFactory()(
            name="shop", level=logging.INFO, pathname="", lineno=1, msg="paid", args=(), exc_info=None
        )

        assert (record.name, record.getMessage(), ids_of(record)) == ("shop", "paid", NO_TRACE)


def saying(inner: Callable[..., logging.LogRecord], **attributes: str) -> Callable[..., logging.LogRecord]:
    """Return a factory of somebody else, chained as the manual of logging shows it."""

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = inner(*args, **kwargs)
        for name, value in attributes.items():
            setattr(record, name, value)
        return record

    vars(factory)["inner"] = inner
    return factory


class listening:  # noqa: N801 - a block
    """Put a queue between a logger and its handler, which runs in another thread then."""

    def __init__(self, log: logging.Logger, kept: Kept) -> None:
        self._log, self._kept = log, kept
        lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        self._handler = logging.handlers.QueueHandler(lines)
        self._listener = logging.handlers.QueueListener(lines, kept)

    def __enter__(self) -> logging.Handler:
        self._log.removeHandler(self._kept)
        self._log.addHandler(self._handler)
        self._listener.start()
        return self._handler

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
        self._log.removeHandler(self._handler)
