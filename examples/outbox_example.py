"""One trace over a transactional outbox and Kafka, with a relay in a process of its own.

docker compose up --wait
python examples/outbox_example.py
"""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, Producer

from spakky.tracing import TraceContext
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.mapping import CARRIER
from spakky.tracing.integrations import confluent_kafka

KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
TOPIC = f"orders-{uuid4().hex}"
GROUP = f"shop-{uuid4().hex}"

OUTBOX: Final[Client[sqlite3.Row, dict[str, Any]]] = Client(
    system="outbox",
    carrier=CARRIER,
    message_type=sqlite3.Row,
    headers=lambda row: json.loads(row["headers"]),
    destination=lambda row: row["topic"],
    name=lambda row: f"relay {row['topic']}",
)
rows = Verbs(OUTBOX)


def main() -> None:
    """Write a row within a trace, let a relay publish it, and receive it in the same trace."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shop.db"
        with closing(open_database(path)) as database, TraceContext.use(TraceContext.new_root()):
            place_order(database, "order 1")
        subprocess.run([sys.executable, __file__, "relay", path], check=True)
    receive()


def place_order(database: sqlite3.Connection, order: str) -> None:
    """Write an order and its message in one transaction; the message has the current context."""
    with database:
        database.execute("INSERT INTO orders VALUES (?)", [order])
        message = [TOPIC, order, json.dumps(rows.headers())]
        database.execute("INSERT INTO outbox VALUES (?, ?, ?)", message)
    print(f"sent     in trace {trace_id()}", flush=True)


def relay(path: Path) -> None:
    """Publish what is in the outbox, each message in the context of who wrote it."""
    producer = confluent_kafka.wrap(Producer({"bootstrap.servers": KAFKA}))
    with closing(open_database(path)) as database:
        for row in database.execute("SELECT rowid, * FROM outbox").fetchall():
            with TraceContext.use(rows.context_from(row)):
                publish(producer, row)
            with database:
                database.execute("DELETE FROM outbox WHERE rowid = ?", [row["rowid"]])


def publish(producer: Producer, row: sqlite3.Row) -> None:
    """Send the message of a row, and wait until Kafka has it."""
    reports: list[KafkaError | None] = []
    producer.produce(row["topic"], row["body"], on_delivery=lambda error, _: reports.append(error))
    producer.flush(timeout=30)
    if reports != [None]:
        raise RuntimeError(reports)


def receive() -> None:
    """Take one message; its trace is current in the body of the loop."""
    consumer = Consumer({"bootstrap.servers": KAFKA, "group.id": GROUP, "auto.offset.reset": "earliest"})
    consumer.subscribe([TOPIC])
    for message in confluent_kafka.iterate(consumer):
        if message.error():
            raise RuntimeError(message.error())
        print(f"received in trace {trace_id()}: {message.value()!r}")
        break
    consumer.close()


def open_database(path: Path) -> sqlite3.Connection:
    """Return a connection to the database of the shop."""
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    database.execute("CREATE TABLE IF NOT EXISTS orders (name TEXT)")
    database.execute("CREATE TABLE IF NOT EXISTS outbox (topic TEXT, body TEXT, headers TEXT)")
    return database


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    relay(Path(sys.argv[2])) if sys.argv[1:2] == ["relay"] else main()
