"""`docs/how-to/batches.md`, and what it says of relations."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from contract.contexts import STALE, TRACEPARENT
from contract.receiving import SENDER
from docs.pages import programs_by_heading
from docs.running import printed_by, with_names
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from pathlib import Path

CODE: Final = programs_by_heading("docs/how-to/batches.md")


def said_by(code: str, names: dict[str, str], folder: Path) -> dict[str, list[str]]:
    """Return what was said of each word, in order."""
    said = defaultdict(list)
    for line in printed_by(with_names(code, names), folder):
        word, _, rest = line.partition(" ")
        said[word].append(rest)
    return said


@pytest.fixture
def topics(kafka_address: str) -> dict[str, str]:
    """Return what to put into a block: the address, and topics that are there."""
    names = {"localhost:9092": kafka_address}
    names |= {f'"{topic}"': f'"{topic}-{uuid4().hex}"' for topic in ("orders", "reports")}
    admin = AdminClient({"bootstrap.servers": kafka_address})
    created = admin.create_topics(
        [NewTopic(names[f'"{topic}"'].strip('"'), 1) for topic in ("orders", "reports")]
    )
    for topic in created.values():
        topic.result(30)
    return names


@pytest.fixture(scope="module")
def parts() -> Any:
    """Return the verbs of the page's aggregation."""
    (code,) = CODE["Fan-in"]
    defined: dict[str, Any] = {}
    exec(code.partition("\nwaiting = ")[0], defined)  # noqa: S102 - it is the page's own code
    return defined["parts"]


def test_every_block_has_its_test() -> None:
    assert {heading: len(blocks) for heading, blocks in CODE.items()} == dict.fromkeys(
        ["Kafka", "RabbitMQ", "Fan-in", "Send in batches"], 1
    )


def test_a_poll_links_to_all_and_each_record_is_in_its_trace(topics: dict[str, str], tmp_path: Path) -> None:
    said = said_by(CODE["Kafka"][0], topics, tmp_path)

    assert len(set(said["placed"])) == 3
    assert said["placed"] == said["billed"] == said["linked"]


def test_messages_that_are_collected_are_a_batch(amqp_url: str, tmp_path: Path) -> None:
    names = {"amqp://guest:guest@localhost/": amqp_url, '"orders"': f'"orders-{uuid4().hex}"'}

    said = said_by(CODE["RabbitMQ"][0], names, tmp_path)

    (reported,) = said["reported"]
    number, _, trace_id = reported.partition(" ")
    assert (number, len({trace_id, *said["ordered"]})) == ("3", 4)


def test_a_fan_in_is_a_trace_of_its_own(tmp_path: Path) -> None:
    said = said_by(CODE["Fan-in"][0], {}, tmp_path)

    assert len({*said["served"], *said["coffee"], *said["cake"]}) == 3


def test_records_that_are_sent_in_a_batch_have_the_contexts_they_were_appended_in(
    topics: dict[str, str], tmp_path: Path
) -> None:
    said = said_by(CODE["Send in batches"][0], topics, tmp_path)

    assert len(set(said["appended"])) == 2
    assert said["appended"] == said["received"]


@pytest.mark.parametrize(
    ("relations", "is_child", "links"),
    [
        (["child", "child"], True, [TRACEPARENT, STALE]),
        (["link", "child"], False, [TRACEPARENT, STALE]),
        (["root", "child"], False, [STALE]),
        (["child", "root"], False, [TRACEPARENT]),
    ],
)
def test_relations_do_what_the_table_says(
    parts: Any, relations: list[str], links: list[str], *, is_child: bool
) -> None:
    messages = [
        {"trace": {"traceparent": header}, "relation": relation}
        for header, relation in zip([TRACEPARENT, STALE], relations, strict=True)
    ]
    with (
        TraceContext.use(TraceContext.new_root()) as current,
        parts.process_batch(messages, relation=lambda part: part["relation"]) as batch,
    ):
        assert current is not None
        assert (batch.context.parent_span_id == current.span_id) is is_child
        assert [link.to_traceparent() for link in batch.links] == links


def test_where_all_are_switched_off_the_block_changes_nothing(parts: Any) -> None:
    with (
        TraceContext.use(SENDER),
        parts.process_batch([{"trace": {"traceparent": TRACEPARENT}}], enabled={"parts": False}) as batch,
    ):
        assert batch.context is None
        assert TraceContext.get() is SENDER


def test_baggage_is_that_of_each_message_and_not_put_together(parts: Any) -> None:
    part = {"trace": {"traceparent": TRACEPARENT, "baggage": "customer=acme"}}

    with parts.process_batch([part]) as batch:
        assert dict(batch.context.baggage) == {}
        assert dict(batch.context_of(part).baggage) == {"customer": "acme"}
        with batch.process(part):
            context = TraceContext.get()
            assert context is not None
            assert dict(context.baggage) == {"customer": "acme"}
