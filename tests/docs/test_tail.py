"""`docs/tail.md`: what it shows is what is printed, and it names the options that there are."""

from __future__ import annotations

import calendar
import re
import shlex
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cli.running import piped
from docs.pages import commands_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = "docs/tail.md"
SECONDS = 30

SPAN = "b7ad6b7169203331"
CHECKOUT = f"00-0af7651916cd43dd8448eb211c80319c-{SPAN}-01"
LEAKED = f"00-5bd66ef5095369c7b0d1f8f4bd33716a-{SPAN}-01"
SENT: list[tuple[str, dict[str, Any]]] = [
    ("18:40:00", {"service": "checkout", "traceparent": CHECKOUT}),
    ("18:40:00", {"service": "billing"}),
    ("18:40:01", {"service": "invoices", "traceparent": f"ff{CHECKOUT[2:]}"}),
    ("18:40:01", {"service": "mailer", "tracestate": "vendor=1"}),
    ("18:40:02", {"service": "checkout", "traceparent": LEAKED}),
    ("18:42:32", {"service": "checkout", "traceparent": LEAKED}),
    ("18:42:33", {"service": "billing"}),
]


@pytest.fixture(scope="module")
def orders(apache_kafka_address: str) -> Iterator[str]:
    """The URL of a topic with the messages of the page, and a name as long as `orders`."""
    name = f"o{uuid4().hex[:5]}"
    admin = AdminClient({"bootstrap.servers": apache_kafka_address})
    admin.create_topics([NewTopic(name, 1)])[name].result(SECONDS)
    producer = Producer({"bootstrap.servers": apache_kafka_address})
    for clock, headers in SENT:
        moment = calendar.timegm(time.strptime(f"2026-11-24 {clock}", "%Y-%m-%d %H:%M:%S"))
        producer.produce(name, b"value", headers=headers, timestamp=moment * 1000)
    assert producer.flush(SECONDS) == 0
    yield f"kafka://{apache_kafka_address}/{name}"
    admin.delete_topics([name])[name].result(SECONDS)


@pytest.mark.parametrize(("command", "printed"), commands_of(PAGE))
def test_what_the_page_shows_is_printed(orders: str, command: str, printed: str) -> None:
    arguments = shlex.split(command.replace("kafka://localhost:9092/orders", orders))[1:]

    ended = piped(*arguments, TZ="UTC")

    assert ended.code == 0
    assert ended.output.replace(orders.rpartition("/")[2], "orders") == printed


def test_the_page_names_every_option_and_no_other() -> None:
    offered = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", piped("tail", "--help").output))
    table = text_of(PAGE).partition("## Options")[2].partition("\n\nCtrl-C")[0]

    named = re.findall(r"`(--?[a-z-]+)", "\n".join(row.split("|")[1] for row in table.strip().splitlines()))

    assert set(named) == offered
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= offered
