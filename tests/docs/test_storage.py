"""The code of `docs/storage.md` and `docs/subprocesses.md`, and what these pages say of it."""

from __future__ import annotations

import json
import logging
import runpy
import sqlite3
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pika import BasicProperties, BlockingConnection, URLParameters

from contract.contexts import STALE, TRACEPARENT, full_context
from contract.receiving import HandlerError
from docs.pages import program_with
from docs.running import printed_by
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import pika
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pika.adapters.blocking_connection import BlockingChannel

STORAGE, SUBPROCESSES = "docs/storage.md", "docs/subprocesses.md"
SENDER = TraceContext.from_traceparent(TRACEPARENT)

NO_CONTEXT: list[Any] = [
    None,
    "",
    "no JSON",
    TRACEPARENT,  # as it was before there was JSON in the column
    b"\xff\xfe",
    7,
    1.5,
    "[" * 100_000,
    "null",
    "7",
    '"text"',
    "[]",
    f'["traceparent", "{TRACEPARENT}"]',
    "{}",
    '{"traceparent": null}',
    '{"traceparent": 7}',
    '{"traceparent": {}}',
    '{"traceparent": ""}',
    f'{{"traceparent": "{TRACEPARENT[:50]}"}}',
    f'{{"traceparent": "{TRACEPARENT}',
    f'{{"trace": {{"traceparent": "{TRACEPARENT}"}}}}',
    '{"tracestate": "a=1"}',
]


def ids_said_by(code: str, folder: Path) -> list[str]:
    """Return the trace ids that the program *code* prints."""
    return [line.split()[1] for line in printed_by(code, folder)]


def defined_in(code: str, folder: Path) -> Any:
    """Return what a block defines before it opens its database."""
    module = folder / "defined.py"
    module.write_text(code.partition("\ndb = ")[0], encoding="utf-8")
    return SimpleNamespace(**runpy.run_path(str(module)))


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    return defined_in(program_with(STORAGE, "def relay"), tmp_path)


@pytest.fixture
def jobs(tmp_path: Path) -> Any:
    return defined_in(program_with(STORAGE, "jobs = Verbs"), tmp_path).jobs


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row
        database.execute("CREATE TABLE orders (name TEXT)")
        database.execute("CREATE TABLE outbox (queue TEXT, body TEXT, headers)")
        yield database


@pytest.fixture
def queue() -> str:
    return f"orders-{uuid4().hex}"


@pytest.fixture
def channel(amqp_url: str, queue: str) -> Iterator[BlockingChannel]:
    with BlockingConnection(URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, exclusive=True)
        channel.confirm_delivery()
        yield channel


def written(database: sqlite3.Connection, queue: str, headers: object) -> sqlite3.Row:
    """Write a row with *headers* into the outbox, and return it."""
    with database:
        database.execute("INSERT INTO outbox VALUES (?, ?, ?)", [queue, "two coffees", headers])
    row: sqlite3.Row = database.execute("SELECT * FROM outbox").fetchone()
    return row


def received(channel: BlockingChannel, queue: str) -> TraceContext | None:
    """Return the context of the next message, read by the bare client."""
    _, properties, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"two coffees"
    assert properties is not None
    return W3C.extract(properties.headers)


class TestEveryBlockRuns:
    def test_an_outbox(self, amqp_url: str, queue: str, tmp_path: Path) -> None:
        code = program_with(STORAGE, "def relay").replace("amqp://guest:guest@localhost/", amqp_url)

        written, received = ids_said_by(code.replace('"orders"', f'"{queue}"'), tmp_path)

        assert written == received

    @pytest.mark.parametrize("word", ["jobs = Verbs", "CREATE TABLE mails"])
    def test_a_table(self, word: str, tmp_path: Path) -> None:
        written, received = ids_said_by(program_with(STORAGE, word), tmp_path)

        assert written == received

    @pytest.mark.parametrize("word", ["environ.headers()", "multiprocessing"])
    def test_a_child_process(self, word: str, tmp_path: Path) -> None:
        sent, received = ids_said_by(program_with(SUBPROCESSES, word), tmp_path)

        assert sent == received


class TestTheRelay:
    """What is in the message, read by a client that knows nothing of this library."""

    def test_sends_the_context_that_was_current_when_the_row_was_written(
        self, shop: Any, database: sqlite3.Connection, channel: BlockingChannel, queue: str
    ) -> None:
        with TraceContext.use(full_context()) as writer:
            database.execute(
                "INSERT INTO outbox VALUES (?, ?, ?)", [queue, "two coffees", json.dumps(shop.rows.headers())]
            )

        with TraceContext.use(TraceContext.new_root()) as of_relay:
            shop.relay(database, pika.wrap(channel))
            assert TraceContext.get() is of_relay

        found = received(channel, queue)
        assert writer is not None
        assert found == TraceContext.from_traceparent(writer.to_traceparent()).with_trace_state(
            writer.trace_state
        ).with_baggage(writer.baggage)
        assert database.execute("SELECT * FROM outbox").fetchall() == []

    def test_sends_it_again_as_it_was(
        self, shop: Any, database: sqlite3.Connection, channel: BlockingChannel, queue: str
    ) -> None:
        """A relay that dies after it has published and before it deletes the row."""
        for _ in range(2):
            written(database, queue, f'{{"traceparent": "{TRACEPARENT}"}}')
            shop.relay(database, pika.wrap(channel))

        assert received(channel, queue) == received(channel, queue) == SENDER

    def test_records_its_send_below_the_writer(
        self, shop: Any, database: sqlite3.Connection, channel: BlockingChannel, queue: str
    ) -> None:
        recorder = MemoryRecorder()
        written(database, queue, f'{{"traceparent": "{TRACEPARENT}"}}')

        shop.relay(database, pika.wrap(channel, tracer=recorder))

        (span,) = recorder.spans
        found = received(channel, queue)
        assert found is not None
        assert (span.trace_id, span.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert (found.trace_id, found.span_id) == (span.trace_id, span.span_id)

    def test_may_be_a_step_of_the_trace(
        self, shop: Any, database: sqlite3.Connection, channel: BlockingChannel, queue: str
    ) -> None:
        row = written(database, queue, f'{{"traceparent": "{TRACEPARENT}"}}')

        with shop.rows.process(row) as processing:
            pika.wrap(channel).basic_publish("", queue, row["body"])

        found = received(channel, queue)
        assert found is not None
        assert found.span_id == processing.context.span_id
        assert (processing.context.trace_id, processing.context.parent_span_id) == (
            SENDER.trace_id,
            SENDER.span_id,
        )

    def test_may_send_the_headers_as_they_are_and_stay_in_a_trace_of_its_own(
        self, shop: Any, database: sqlite3.Connection, channel: BlockingChannel, queue: str
    ) -> None:
        row = written(database, queue, f'{{"traceparent": "{TRACEPARENT}"}}')
        properties = BasicProperties(headers=json.loads(row["headers"]))

        with TraceContext.use(TraceContext.new_root()):
            pika.wrap(channel, keep=True).basic_publish("", queue, row["body"], properties)

        assert received(channel, queue) == SENDER

    @pytest.mark.parametrize("headers", [None, "no JSON", f'{{"traceparent": "{TRACEPARENT[:50]}"}}'])
    def test_starts_a_trace_for_a_row_without_a_context(
        self, headers: object, shop: Any, database: sqlite3.Connection, channel: BlockingChannel, queue: str
    ) -> None:
        written(database, queue, headers)

        with TraceContext.use(TraceContext.new_root()) as of_relay:
            shop.relay(database, pika.wrap(channel))

        found = received(channel, queue)
        assert found is not None
        assert of_relay is not None
        assert found.trace_id not in {of_relay.trace_id, SENDER.trace_id}


class TestRows:
    def test_are_written_with_their_trace_or_not_at_all(
        self, shop: Any, database: sqlite3.Connection
    ) -> None:
        database.execute("DROP TABLE outbox")

        with TraceContext.use(full_context()), pytest.raises(sqlite3.OperationalError):
            shop.place(database, "two coffees")

        assert database.execute("SELECT * FROM orders").fetchall() == []

    def test_that_are_written_outside_of_any_trace_start_one(
        self, shop: Any, database: sqlite3.Connection
    ) -> None:
        shop.place(database, "two coffees")

        (row,) = database.execute("SELECT * FROM outbox")
        assert shop.rows.context_from(row) is not None
        assert shop.rows.context_from(row) == shop.rows.context_from(row)

    def test_keep_the_headers_of_the_user(self, shop: Any) -> None:
        with TraceContext.use(SENDER):
            headers = shop.rows.headers({"tenant": "acme", "traceparent": STALE, "tracestate": "stale=1"})

        assert headers == {"tenant": "acme", "traceparent": TRACEPARENT}

    @pytest.mark.parametrize("headers", NO_CONTEXT, ids=lambda headers: repr(headers)[:40])
    def test_that_are_malformed_have_no_context(
        self, headers: object, shop: Any, database: sqlite3.Connection
    ) -> None:
        row = written(database, "orders", headers)

        assert shop.rows.context_from(row) is None
        with shop.rows.process(row) as processing:
            assert processing.context.parent_span_id is None
            assert processing.context.trace_id != SENDER.trace_id

    def test_without_the_column_have_no_context(self, shop: Any, database: sqlite3.Connection) -> None:
        """Written before there was one: also what else is asked for may be missing."""
        row = database.execute("SELECT 'orders' AS queue").fetchone()

        assert shop.rows.context_from(row) is None
        with shop.rows.process(row) as processing:
            assert processing.context.parent_span_id is None

    def test_with_other_fields_malformed_stay_in_their_trace(
        self, shop: Any, database: sqlite3.Connection
    ) -> None:
        headers = {"traceparent": TRACEPARENT, "tracestate": "a=1,=,", "baggage": "tenant=acme,=,"}
        row = written(database, "orders", json.dumps(headers))

        found = shop.rows.context_from(row)

        assert (found.to_traceparent(), found.trace_state.to_header()) == (TRACEPARENT, "")
        assert dict(found.baggage) == {"tenant": "acme"}

    def test_with_baggage_alone_start_a_trace_with_it(self, shop: Any, database: sqlite3.Connection) -> None:
        row = written(database, "orders", '{"baggage": "tenant=acme"}')

        with shop.rows.process(row) as processing:
            assert dict(processing.context.baggage) == {"tenant": "acme"}

    def test_that_are_refused_say_why(
        self, shop: Any, database: sqlite3.Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        row = written(database, "orders", "no JSON")

        with caplog.at_level(logging.DEBUG, "spakky.tracing"):
            shop.rows.context_from(row)

        assert caplog.messages == ["no trace context: the headers cannot be read: JSONDecodeError"]


class TestATableOfJobs:
    def test_each_attempt_is_a_child_of_the_writer_and_has_its_number(
        self, jobs: Any, database: sqlite3.Connection
    ) -> None:
        recorder = MemoryRecorder()
        database.execute("CREATE TABLE jobs (task TEXT, trace TEXT, failures INTEGER DEFAULT 0)")
        with TraceContext.use(SENDER):
            database.execute(
                "INSERT INTO jobs (task, trace) VALUES ('pack', ?)", [json.dumps(jobs.headers())]
            )

        for _ in range(2):
            (job,) = database.execute("SELECT * FROM jobs")
            with pytest.raises(HandlerError), jobs.process(job, tracer=recorder):
                raise HandlerError
            database.execute("UPDATE jobs SET failures = failures + 1")

        assert [(span.name, span.attempt, span.outcome) for span in recorder.spans] == [
            ("run pack", 1, "error"),
            ("run pack", 2, "error"),
        ]
        assert {span.parent_span_id for span in recorder.spans} == {SENDER.span_id}

    def test_a_cursor_is_iterated_over(self, jobs: Any, database: sqlite3.Connection) -> None:
        database.execute("CREATE TABLE jobs (task TEXT, trace TEXT, failures INTEGER DEFAULT 0)")
        rows = [("pack", f'{{"traceparent": "{TRACEPARENT}"}}'), ("ship", None), ("bill", "no JSON")]
        database.executemany("INSERT INTO jobs (task, trace) VALUES (?, ?)", rows)

        cursor = database.execute("SELECT * FROM jobs")
        contexts = [(job["task"], TraceContext.get()) for job in jobs.iterate(cursor)]

        traces = [context.trace_id for _, context in contexts if context is not None]
        assert [task for task, _ in contexts] == ["pack", "ship", "bill"]
        assert traces[0] == SENDER.trace_id
        assert len(set(traces)) == len(rows)

    def test_rows_are_processed_as_a_batch(self, jobs: Any, database: sqlite3.Connection) -> None:
        database.execute("CREATE TABLE jobs (task TEXT, trace TEXT, failures INTEGER DEFAULT 0)")
        rows = [("pack", f'{{"traceparent": "{TRACEPARENT}"}}'), ("ship", f'{{"traceparent": "{STALE}"}}')]
        database.executemany("INSERT INTO jobs (task, trace) VALUES (?, ?)", rows)

        with jobs.process_batch(database.execute("SELECT * FROM jobs").fetchall()) as batch:
            assert [link.to_traceparent() for link in batch.links] == [TRACEPARENT, STALE]


class TestThreeColumns:
    @pytest.mark.parametrize("value", [None, "", 7, 1.5, b"\xff", TRACEPARENT[:50], "x" * 100_000], ids=repr)
    def test_that_are_malformed_are_no_context(self, value: object, database: sqlite3.Connection) -> None:
        query = "SELECT ? AS traceparent, ? AS tracestate, ? AS baggage"

        assert W3C.extract(dict(database.execute(query, [value, None, None]).fetchone())) is None
        found = W3C.extract(dict(database.execute(query, [TRACEPARENT, value, value]).fetchone()))
        assert found is not None
        assert (found.to_traceparent(), found.trace_state.to_header()) == (TRACEPARENT, "")
