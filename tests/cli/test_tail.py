"""`spakky-tracing tail` on a topic of Kafka, with ordinary clients at both ends."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from kafka import KafkaProducer

from architecture.project import run
from brokers import mock_kafka
from cli.running import in_terminal, piped
from cli.tailing import Headers, Station, TailContract, tail, traceparents
from spakky.tracing.carriers import Delivery
from spakky.tracing.carriers.amqp import CARRIER as AMQP
from spakky.tracing.carriers.celery import CARRIER as CELERY
from spakky.tracing.cli.tail.totals import OTHERS, Totals
from spakky.tracing.cli.tail.verdict import Judge
from spakky.tracing.cli.tail.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30


class Topic(Station):
    """A topic with one partition."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self.admin = AdminClient({"bootstrap.servers": address})
        self.producer = Producer({"bootstrap.servers": address, "linger.ms": 0})
        (created,) = self.admin.create_topics([NewTopic(name, 1)]).values()
        created.result(PATIENCE)

    @property
    def url(self) -> str:
        return f"kafka://{self.address}/{self.name}"

    def send(self, *messages: Headers) -> None:
        for headers in messages:
            self.produce(list(headers.items()))
        self.flush()

    def send_twice(self, name: str, *values: str) -> None:
        self.produce([(name, value) for value in values])
        self.flush()

    def produce(self, headers: list[tuple[str, Any]], value: bytes | None = b"value", **more: Any) -> None:
        self.producer.produce(self.name, value, headers=headers, **more)

    def flush(self) -> None:
        assert self.producer.flush(PATIENCE) == 0

    def receive(self, count: int) -> list[dict[str, str]]:
        settings = {
            "bootstrap.servers": self.address,
            "group.id": f"g-{uuid4()}",
            "auto.offset.reset": "earliest",
        }
        consumer = Consumer(settings)
        consumer.subscribe([self.name])
        try:
            messages = consumer.consume(count, PATIENCE)
        finally:
            consumer.close()
        assert len(messages) == count
        return [texts(each.headers()) for each in messages]

    def leftovers(self) -> object:
        groups = self.admin.list_consumer_groups().result(PATIENCE).valid
        return {group.group_id for group in groups}, self.topics()

    def topics(self) -> set[str]:
        return set(self.admin.list_topics(timeout=PATIENCE).topics)

    def delete(self) -> None:
        (deleted,) = self.admin.delete_topics([self.name]).values()
        deleted.result(PATIENCE)


def texts(headers: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in headers or []}


@contextmanager
def a_topic(address: str) -> Iterator[Topic]:
    topic = Topic(address, f"tail-{uuid4()}")
    try:
        yield topic
    finally:
        topic.delete()


class TestKafka(TailContract):
    @pytest.fixture
    def station(self, apache_kafka_address: str) -> Iterator[Station]:
        with a_topic(apache_kafka_address) as topic:
            yield topic


@pytest.fixture
def topic(apache_kafka_address: str) -> Iterator[Topic]:
    with a_topic(apache_kafka_address) as topic:
        yield topic


VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TestTopics:
    def test_no_group_is_there_while_it_watches(self, topic: Topic) -> None:
        before = topic.leftovers()

        with tail(topic.url) as running:
            topic.send({})
            running.read_line()

            assert topic.leftovers() == before

    def test_an_unknown_topic_is_refused_and_not_created(self, apache_kafka_address: str) -> None:
        name = f"tail-{uuid4()}"

        ended = piped("tail", f"kafka://{apache_kafka_address}/{name}")

        assert (ended.code, ended.output) == (2, "")
        assert ended.errors == (
            f"Error: Kafka at {apache_kafka_address} has no topic {name}, or does not show it.\n"
        )
        assert name not in AdminClient({"bootstrap.servers": apache_kafka_address}).list_topics().topics

    def test_a_topic_that_is_deleted_ends_it_and_stays_deleted(self, topic: Topic) -> None:
        other = Topic(topic.address, f"tail-{uuid4()}")
        with tail(other.url) as running:
            other.delete()
            ended = running.ended()

        assert ended.code == 2
        assert ended.errors.endswith(f"The topic {other.name} of Kafka at {other.address} is gone.\n")
        assert other.name not in other.topics()

    def test_messages_that_are_there_already_are_seen_from_the_beginning(self, topic: Topic) -> None:
        topic.send({"traceparent": VALID}, {})

        with tail("--json", "--from-beginning", "--count=3", topic.url) as running:
            topic.send({"traceparent": "x"})
            verdicts = [each["verdict"] for each in running.messages()]

        assert verdicts == ["valid", "missing", "malformed"]

    def test_a_partition_that_comes_later_is_seen_from_its_beginning(self, topic: Topic) -> None:
        with tail("--json", "--count=5", topic.url) as running:
            topic.produce([], partition=0)
            topic.flush()
            (grown,) = topic.admin.create_partitions([NewPartitions(topic.name, 2)]).values()
            grown.result(PATIENCE)
            asyncio.run(_send_to_partitions(topic, 0, 1, 0, 1))
            places = {each["place"] for each in running.messages()}

        assert places == {f"{topic.name} {place}" for place in ("0:0", "0:1", "0:2", "1:0", "1:1")}

    def test_two_topics_are_watched_at_once(self, topic: Topic) -> None:
        with a_topic(topic.address) as other, tail("--json", "--count=2", topic.url, other.url) as running:
            topic.send({"traceparent": VALID})
            other.send({})
            (*messages, last) = running.objects()

        assert {each["place"]: each["verdict"] for each in messages} == {
            f"{topic.name} 0:0": "valid",
            f"{other.name} 0:0": "missing",
        }
        assert [group["producer"] for group in last["totals"]["groups"]] == [other.name, topic.name]

    def test_every_kind_of_record_is_judged(self, topic: Topic) -> None:
        headers = [("traceparent", VALID.encode())]
        with tail("--json", "--count=6", topic.url) as running:
            topic.produce(headers, None, key=b"tombstone")
            topic.produce([])
            topic.flush()
            asyncio.run(_send_by_aiokafka(topic, headers))
            _send_by_kafka_python(topic, headers)
            _send_in_a_transaction(topic, headers)
            verdicts = [each["verdict"] for each in running.messages()]

        assert verdicts == ["valid", "missing", "valid", "valid", "valid", "valid"]

    def test_a_compression_that_is_not_installed_is_refused(self, topic: Topic) -> None:
        with tail(topic.url) as running:
            producer = Producer({"bootstrap.servers": topic.address, "compression.type": "lz4"})
            producer.produce(topic.name, b"x" * 1000)
            producer.flush()
            ended = running.ended()

        assert ended.code == 2
        assert "pip install 'aiokafka[lz4,snappy,zstd]'" in ended.errors
        assert "Traceback" not in ended.errors

    def test_a_broker_that_goes_away_ends_it_in_one_sentence(self) -> None:
        with a_mock_cluster() as (process, address):
            Producer({"bootstrap.servers": address}).list_topics("orders", timeout=PATIENCE)
            with tail(f"kafka://{address}/orders") as running:
                process.kill()
                ended = running.ended()

        assert (ended.code, ended.output) == (2, "")
        assert ended.errors.splitlines()[1:] == [
            f"Error: Kafka at {address} does not answer (KafkaError): is it there, and reachable?"
        ]


async def _send_by_aiokafka(topic: Topic, headers: list[tuple[str, bytes]]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=topic.address, compression_type="gzip") as producer:
        await producer.send_and_wait(topic.name, b"x" * 1000, headers=headers)


async def _send_to_partitions(topic: Topic, *partitions: int) -> None:
    """Send a record to each of *partitions*, as soon as there are as many."""
    async with AIOKafkaProducer(bootstrap_servers=topic.address, metadata_max_age_ms=100) as producer:
        while len(await producer.partitions_for(topic.name)) <= max(partitions):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
        for partition in partitions:
            await producer.send_and_wait(topic.name, b"", partition=partition)


def _send_by_kafka_python(topic: Topic, headers: list[tuple[str, bytes]]) -> None:
    producer = KafkaProducer(bootstrap_servers=topic.address)
    producer.send(topic.name, b"value", headers=headers).get(PATIENCE)
    producer.close()


def _send_in_a_transaction(topic: Topic, headers: Any) -> None:
    producer = Producer({"bootstrap.servers": topic.address, "transactional.id": topic.name})
    producer.init_transactions()
    for _ in range(2):  # a record that says that a transaction ended lies between the two
        producer.begin_transaction()
        producer.produce(topic.name, b"value", headers=headers)
        producer.commit_transaction()


@contextmanager
def a_mock_cluster() -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-P", mock_kafka.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


class TestStale:
    def test_a_context_that_leaked_is_stale(self, topic: Topic) -> None:
        now = int(time.time() * 1000)
        with tail("--json", "--stale-after=30", "--count=3", topic.url) as running:
            for age in (40, 11, 0):
                topic.produce([("traceparent", VALID)], timestamp=now - age * 1000)
            topic.flush()
            messages = running.messages()

        assert [each["verdict"] for each in messages] == ["valid", "valid", "stale"]
        assert messages[-1]["reason"] == "same traceparent as a message 40 s earlier"
        assert messages[-1]["trace_id"] == VALID[3:35]

    def test_a_retry_is_not_stale(self, topic: Topic) -> None:
        now = int(time.time() * 1000)
        with tail("--json", "--count=2", topic.url) as running:
            topic.produce([("traceparent", VALID)], timestamp=now - 600_000)
            topic.produce([("traceparent", VALID), ("x-retry-count", "1")], timestamp=now)
            topic.flush()
            messages = running.messages()

        assert [(each["verdict"], each["attempt"]) for each in messages] == [("valid", None), ("valid", 2)]

    def test_headers_that_a_task_copied_on_are_stale(self) -> None:
        judge = Judge(stale_after=60)
        parent = celery_message({"traceparent": VALID}, message_id="task-1")
        copied = celery_message({"traceparent": VALID}, message_id="task-2", parent_id="task-1")
        own = celery_message({"traceparent": traceparents(1)[0]}, message_id="task-3", parent_id="task-1")

        judgements = [judge.judge(each) for each in (parent, copied, own, parent)]

        assert [each.verdict for each in judgements] == ["valid", "stale", "valid", "valid"]
        assert judgements[1].reason == "same traceparent as message task-1, in whose processing it was sent"

    def test_a_message_that_is_seen_again_is_not_another_one(self) -> None:
        judge = Judge(stale_after=0)
        times = [Delivery(sent_unix_nano=second * 10**9) for second in (1, 500, 900)]

        seen = [celery_message({"traceparent": VALID}, message_id="task-1", delivery=each) for each in times]

        assert [judge.judge(each).verdict for each in seen] == ["valid"] * 3

    def test_a_task_that_takes_long_may_send_at_its_end_too(self) -> None:
        judge = Judge(stale_after=60)
        times = [Delivery(sent_unix_nano=second * 10**9) for second in (1, 500, 501)]

        sent = [
            celery_message({"traceparent": VALID}, message_id=name, parent_id=parent, delivery=each)
            for name, parent, each in zip("abc", ("task-1", "task-1", "task-2"), times, strict=True)
        ]

        assert [judge.judge(each).verdict for each in sent] == ["valid", "valid", "stale"]

    @pytest.mark.parametrize(
        "delivery", [{"attempt": 2}, {"death_count": 1}, {"is_redelivered": True}, {"follows_failure": True}]
    )
    def test_what_is_sent_once_more_is_not_stale(self, delivery: dict[str, Any]) -> None:
        judge = Judge(stale_after=60)
        judge.judge(celery_message({"traceparent": VALID}, delivery=Delivery(sent_unix_nano=0)))
        again = Delivery(sent_unix_nano=10**12, **delivery)

        assert judge.judge(celery_message({"traceparent": VALID}, delivery=again)).verdict == "valid"

    def test_what_was_sent_earlier_may_be_seen_later(self) -> None:
        judge = Judge(stale_after=60)
        times = [Delivery(sent_unix_nano=second * 10**9) for second in (1000, 1, 1000)]

        verdicts = [
            judge.judge(celery_message({"traceparent": VALID}, delivery=each)).verdict for each in times
        ]

        assert verdicts == ["valid", "valid", "stale"]

    @pytest.mark.parametrize("for_ever", [float("inf"), 1e300])
    def test_one_span_may_go_on_sending_for_ever_if_that_is_wanted(self, for_ever: float) -> None:
        judge = Judge(stale_after=for_ever)
        times = [Delivery(sent_unix_nano=second * 10**9) for second in (0, 10**9)]

        seen = [celery_message({"traceparent": VALID}, delivery=each) for each in times]

        assert [judge.judge(each).verdict for each in seen] == ["valid"] * 2

    def test_only_what_was_seen_last_is_remembered(self) -> None:
        judge = Judge(stale_after=0, remembered=2)
        old = Delivery(sent_unix_nano=0)
        judge.judge(celery_message({"traceparent": VALID}, delivery=old))
        for each in traceparents(2):
            judge.judge(celery_message({"traceparent": each}, delivery=old))

        assert judge.judge(celery_message({"traceparent": VALID})).verdict == "valid"


def celery_message(headers: dict[str, Any], **more: Any) -> Watched:
    return Watched(headers=headers, carrier=CELERY, place="celery", producer="worker", **more)


class TestDuplicates:
    @pytest.mark.parametrize(
        "headers",
        [
            {"traceparent": VALID, "Traceparent": VALID},
            {"traceparent": [VALID, VALID]},
            {"traceparent": VALID, "headers": {"traceparent": VALID.replace("0af7", "1af7")}},
        ],
    )
    def test_several_traceparents_are_a_duplicate(self, headers: dict[str, Any]) -> None:
        judgement = Judge(stale_after=60).judge(celery_message(headers))

        assert judgement.verdict == "duplicated"
        assert judgement.reason is not None
        assert judgement.reason.startswith("traceparent is there 2 times: ")

    @pytest.mark.parametrize(
        "headers",
        [{"traceparent": VALID, "headers": {"traceparent": VALID}}, {"headers": {"TRACEPARENT": VALID}}],
    )
    def test_celery_may_nest_the_same_once_more(self, headers: dict[str, Any]) -> None:
        assert Judge(stale_after=60).judge(celery_message(headers)).verdict == "valid"

    @pytest.mark.parametrize("value", [7, None, {}, [], [VALID], b"\xff", "", VALID.upper()])
    def test_what_is_no_traceparent_is_malformed(self, value: object) -> None:
        message = Watched(headers={"traceparent": value}, carrier=AMQP, place="q", producer="q")

        assert Judge(stale_after=60).judge(message).verdict == "malformed"

    @pytest.mark.parametrize(
        ("value", "said"),
        [(None, "traceparent is not text: (nothing)"), ({}, "traceparent is not text: (dict)")],
    )
    def test_what_is_no_text_is_said_to_be_none(self, value: object, said: str) -> None:
        message = Watched(headers={"traceparent": value}, carrier=AMQP, place="q", producer="q")

        assert Judge(stale_after=60).judge(message).reason == said

    @pytest.mark.parametrize("headers", [None, 7, "traceparent", [("traceparent",)], {7: VALID}, [None]])
    def test_headers_of_any_shape_are_read(self, headers: object) -> None:
        message = Watched(headers=headers, carrier=AMQP, place="q", producer="q")

        assert Judge(stale_after=60).judge(message).verdict == "missing"


class TestShowing:
    def test_a_terminal_of_80_columns_shows_everything(self, topic: Topic) -> None:
        hostile = "\x1b[2J\u202e[red]" + "注文" * 30
        topic.send(
            {"traceparent": VALID},
            {"service": hostile, "traceparent": VALID[:-1] + hostile},
            {"service": "shop", "traceparent": VALID, "tracestate": "=" * 300},
        )

        shown = in_terminal("tail", "--from-beginning", "--by=service", "--count=3", topic.url)

        lines = plain(shown.output).splitlines()
        assert shown.code == 0
        assert max(map(width, lines)) <= 80
        assert "\u202e" not in shown.output
        assert "\x1b[2J" not in shown.output
        assert "[red]" in plain(shown.output)
        assert any(line.startswith("all ") for line in lines)

    @pytest.mark.parametrize(
        ("columns", "heading"), [(40, "service messages missing lost"), (30, "service messages lost")]
    )
    def test_a_narrow_terminal_shows_who_loses_traces(self, topic: Topic, columns: int, heading: str) -> None:
        topic.send({"service": "shop", "traceparent": VALID}, {"service": "billing"})

        shown = in_terminal(
            "tail", "--from-beginning", "--by=service", "--count=2", topic.url, columns=columns
        )

        lines = plain(shown.output).splitlines()
        assert max(map(width, lines)) <= columns
        assert [" ".join(line.split()) for line in lines[-4:]] == [
            heading,
            "billing 1 1 100%" if "missing" in heading else "billing 1 100%",
            "shop 1 0 0%" if "missing" in heading else "shop 1 0%",
            "all 2 1 50%" if "missing" in heading else "all 2 50%",
        ]

    def test_a_terminal_shows_totals_while_it_watches(self, topic: Topic) -> None:
        topic.send({"traceparent": VALID}, {})

        shown = in_terminal("tail", "--from-beginning", "--seconds=1", topic.url)

        assert shown.output.count("messages") >= 2
        assert "\x1b[J" in shown.output

    def test_without_colour_nothing_is_coloured(self, topic: Topic) -> None:
        topic.send({"traceparent": VALID}, {})

        shown = in_terminal("tail", "--from-beginning", "--count=2", topic.url, NO_COLOR="1")

        assert not re.search(r"\x1b\[3\dm", shown.output)
        assert "missing" in shown.output

    def test_a_dumb_terminal_gets_no_escape_sequence(self, topic: Topic) -> None:
        topic.send({"traceparent": VALID}, {})

        shown = in_terminal("tail", "--from-beginning", "--count=2", topic.url, TERM="dumb")

        assert "\x1b" not in shown.output

    def test_a_pipe_gets_complete_lines(self, topic: Topic) -> None:
        name = "a-service-with-a-long-name." * 5
        topic.send({"service": name, "traceparent": VALID[:-1]})

        ended = piped("tail", "--from-beginning", "--by=service", "--count=1", topic.url)

        first, blank, *_ = ended.output.splitlines()
        assert re.fullmatch(
            rf"\d\d:\d\d:\d\d malformed  {name} {topic.name} 0:0 traceparent .*'{VALID[:-1]}'", first
        )
        assert blank == ""

    def test_ids_stand_below_each_other_and_whoever_has_sent_is_told(self, topic: Topic) -> None:
        """Also a service whose name the name of the topic begins with."""
        service = topic.name[:5]
        topic.send(*({"service": each, "traceparent": VALID} for each in (service, "billing", "billing")))

        ended = piped("tail", "--from-beginning", "--by=service", "--count=3", topic.url)

        first, *others = ended.output.splitlines()[:3]
        assert f"valid      {service}  " in first
        assert len({line.find(VALID[3:35]) for line in others}) == 1

    def test_only_problems_are_shown_if_that_is_wanted(self, topic: Topic) -> None:
        topic.send({"traceparent": VALID}, {}, {"traceparent": VALID})

        ended = piped("tail", "--from-beginning", "--problems", "--count=3", topic.url)

        assert [line.split()[1] for line in ended.output.splitlines()[:1]] == ["missing"]
        assert ended.output.splitlines()[-1].split() == [topic.name, *["3", "2", "1", "0", "0", "0", "33%"]]

    def test_only_totals_are_shown_if_that_is_wanted(self, topic: Topic) -> None:
        topic.send({"traceparent": VALID}, {})

        ended = piped("tail", "--from-beginning", "--totals", "--count=2", topic.url)

        assert [line.split()[0] for line in ended.output.splitlines()] == ["producer", topic.name]

    def test_a_header_that_says_nothing_is_as_good_as_none(self, topic: Topic) -> None:
        topic.send({"service": " "}, {"service": "shop"}, {})

        ended = piped("tail", "--from-beginning", "--by=service", "--totals", "--count=3", topic.url)

        groups = [line.split("  ")[0] for line in ended.output.splitlines()[1:]]
        assert groups == ["(no service)", "shop", "all"]

    def test_groups_are_bounded(self) -> None:
        totals = Totals(most_groups=2)
        for name in ("a", "b", "c", "d", "a"):
            totals.count(name, "valid")

        assert {group.name: group.messages for group in totals.worst_first()} == {"a": 2, "b": 1, OTHERS: 2}


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def width(line: str) -> int:
    """Return how many columns of a terminal *line* takes."""
    return sum(2 if character in "注文" else 1 for character in line)


class TestRefusing:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("kafka://localhost:9092", "names no topic"),
            ("kafka://localhost:9092/", "names no topic"),
            ("kafka:///orders", "names no host"),
            ("kafka://localhost:99999/orders", "has a port that is not from 1 to 65535"),
            ("kafka://localhost:port/orders", "has 'localhost:port' where a host and its port should be"),
            ("kafka://a:9092,/orders", "names no host"),
            ("kafka://[::1/orders", "cannot be read"),
            ("kafka://localhost/ord ers", "has a space in it"),
            ("kafka://me:a/b@localhost/orders", "has a / before the @"),
            ("kafka://localhost/or/ders", "which Kafka does not allow"),
            ("kafka://localhost/orders?x=1", "goes on after the topic"),
            ("kafka://secret@localhost/orders", "has a user without a password"),
            ("orders", "cannot be watched"),
            ("http://localhost/orders", "cannot be watched"),
            ("kafka:localhost/orders", "cannot be watched"),
        ],
    )
    def test_a_wrong_url_is_refused_with_an_example(self, url: str, said: str) -> None:
        ended = piped("tail", url)

        assert (ended.code, ended.output) == (2, "")
        assert said in ended.errors
        assert "kafka://localhost:9092/" in ended.errors.partition(said)[2]
        assert ended.errors.count("\n") == 1

    @pytest.mark.parametrize(
        "url",
        [
            "kafka://me:secret@localhost",
            "kafka://me:secret/secret@localhost/orders",
            "kafka://me:secret@secret@127.0.0.1:1/orders",
            "kafkaa://me:secret@localhost/orders",
            "me:secret@localhost/orders",
            "kafka://me:[secret]@localhost/orders",
            "kafka://me:secret\u2100@localhost/orders",
            "amqp://me:secret?x@localhost/orders",
            "amqp://me:secret#x@localhost/orders",
            "amqp://me:[secret]@localhost/orders",
            "amqp://me:secret\u2100@localhost/orders",
            "redis://me:secret/x@localhost/orders",
            "redis://me:1/x?secret=1@localhost/orders",
        ],
    )
    def test_credentials_are_never_printed(self, url: str) -> None:
        ended = piped("tail", url)

        assert ended.code == 2
        assert "secret" not in ended.output + ended.errors

    def test_an_unreachable_broker_is_refused(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and never listens
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            ended = piped("tail", f"kafka://{address}/orders")

        assert (ended.code, ended.output) == (2, "")
        assert ended.errors == (
            f"Error: Kafka at {address} does not answer (KafkaConnectionError): is it there, and reachable?\n"
        )

    @pytest.mark.parametrize("option", ["--seconds", "--stale-after"])
    def test_a_time_that_is_no_number_is_refused(self, option: str) -> None:
        ended = piped("tail", option, "nan", "kafka://localhost/orders")

        assert (ended.code, ended.output) == (2, "")
        assert f"Invalid value for '{option}': 'nan' is not a number." in ended.errors

    def test_routing_keys_are_refused_where_there_are_none(self) -> None:
        ended = piped("tail", "--key=orders.*", "kafka://localhost/orders")

        assert (ended.code, "--key is for amqp://" in ended.errors) == (2, True)

    def test_a_missing_client_library_names_the_command_that_installs_it(self) -> None:
        outcome = run(
            "import sys\n"
            "sys.modules['aiokafka'] = None\n"
            "sys.argv[1:] = ['tail', 'kafka://localhost/orders']\n"
            "from spakky.tracing.__main__ import main\n"
            "main()\n"
        )

        assert outcome.returncode == 2
        assert (
            outcome.stderr == "Error: aiokafka is not installed: pip install 'spakky-tracing[cli,aiokafka]'\n"
        )

    def test_ctrl_c_ends_it_before_it_watches(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"kafka://127.0.0.1:{silent.getsockname()[1]}/orders"
            with tail(url, until_watching=False) as running:
                connection, _ = silent.accept()
                with connection:
                    ended = running.end(signal.SIGINT)

        assert (ended.code, ended.errors) == (0, "")
