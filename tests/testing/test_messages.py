"""What a message carries, whatever client library it is of, and what is told when it does not."""

from __future__ import annotations

import re
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.request import Request

import aio_pika
import confluent_kafka
import dramatiq
import httpx
import pika
import pytest
import requests
from aiohttp.test_utils import make_mocked_request
from aiokafka import ConsumerRecord
from celery.app.task import Context
from celery.result import AsyncResult
from kafka.consumer.fetcher import ConsumerRecord as PythonRecord
from kombu.message import Message as KombuMessage
from multidict import CIMultiDict
from pika.spec import Basic
from rq.job import Job
from starlette.requests import Request as StarletteRequest
from taskiq import TaskiqMessage

from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.trace_state import TraceState
from testing.shop import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spakky.tracing.testing import Traces

Text = dict[str, str]


def kafka(headers: Text) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in headers.items()]


def aiokafka_record(headers: Text) -> object:
    return ConsumerRecord("orders", 0, 0, 0, 0, None, b"", 0, 0, 0, tuple(kafka(headers)))


def kafka_python_record(headers: Text) -> object:
    fields = dict.fromkeys(PythonRecord._fields)
    return PythonRecord(**{**fields, "topic": "orders", "headers": kafka(headers)})


def confluent_message(headers: Text) -> object:
    message = confluent_kafka.Message(topic="orders", value=b"")
    message.set_headers([(name, value) for name, value in kafka(headers)])
    return message


def pika_message(headers: Text) -> object:
    return Basic.Deliver(), pika.BasicProperties(headers=dict(headers)), b""


def arq_ctx(headers: Text) -> object:
    """Return the ctx of a job, in which a user keeps a client that has headers as well."""
    run = SimpleNamespace(headers=headers)
    return {"client": SimpleNamespace(headers={"accept": "*"}), "job_try": 1, "spakky_tracing_run": run}


def dramatiq_message(headers: Text) -> object:
    return dramatiq.Message(queue_name="q", actor_name="a", args=(), kwargs={}, options=dict(headers))


def taskiq_message(headers: Text) -> object:
    return TaskiqMessage(task_id="1", task_name="a", labels=dict(headers), args=[], kwargs={})


def rq_job(headers: Text) -> object:
    job = Job.create(print, connection=SimpleNamespace())  # type: ignore[arg-type]
    job.meta.update(headers)
    return job


def celery_request(headers: Text) -> object:
    """Return the request of a task as a worker makes it of a message of protocol 2."""
    return Context({"id": "1", "task": "t", **headers})


def asgi_scope(headers: Text) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": "/", "headers": pairs}


def wsgi_environ(headers: Text) -> object:
    return {"REQUEST_METHOD": "GET", **{f"HTTP_{name.upper()}": value for name, value in headers.items()}}


def starlette_request(headers: Text) -> object:
    return StarletteRequest(asgi_scope(headers))


SHAPES: dict[str, Callable[[Text], object]] = {
    "aiokafka-record": aiokafka_record,
    "kafka-python-record": kafka_python_record,
    "confluent-message": confluent_message,
    "kafka-headers": kafka,
    "aio-pika-message": lambda headers: aio_pika.Message(b"", headers=dict(headers)),
    "pika-message": pika_message,
    "pika-properties": lambda headers: pika.BasicProperties(headers=dict(headers)),
    "kombu-message": lambda headers: KombuMessage(headers=dict(headers)),
    "celery-request": celery_request,
    "celery-headers": lambda headers: {"id": "1", "task": "t", "headers": dict(headers)},
    "dramatiq-message": dramatiq_message,
    "taskiq-message": taskiq_message,
    "rq-job": rq_job,
    "arq-ctx": arq_ctx,
    "httpx-request": lambda headers: httpx.Request("GET", "http://shop", headers=headers),
    "requests-request": lambda headers: requests.Request("GET", "http://shop", headers=headers).prepare(),
    "urllib-request": lambda headers: Request("http://shop", headers=headers),
    "aiohttp-request": lambda headers: make_mocked_request("GET", "/", headers=headers),
    "aiohttp-headers": CIMultiDict,
    "starlette-request": starlette_request,
    "asgi-scope": asgi_scope,
    "wsgi-environ": wsgi_environ,
    "mapping": lambda headers: headers,
    "environment": lambda headers: {name.upper(): value for name, value in headers.items()},
    "pairs": lambda headers: list(headers.items()),
}


@contextmanager
def failing(*lines: str) -> Iterator[None]:
    """Expect a failure of these *lines*, in which `ID` stands for a trace id that is not all of one digit."""
    with pytest.raises(AssertionError) as caught:
        yield
    said = re.sub(r"\b(?!1{32})[0-9a-f]{32}\b", "ID", str(caught.value))
    assert said.splitlines() == list(lines)


STALE = "00-11111111111111111111111111111111-2222222222222222-01"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_carries_the_current_trace(traces: Traces, shape: Callable[[Text], object]) -> None:
    with traces.root() as root:
        headers = {"tenant": "7", "traceparent": root.child().to_traceparent()}
        message = traces.message(shape(headers)).must_carry_the_current_trace().must_carry_a_trace()

    assert message.context is not None
    assert message.context.trace_id == root.trace_id
    message.must_carry(root)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_carries_another_trace(traces: Traces, shape: Callable[[Text], object]) -> None:
    message = shape({"tenant": "7", "traceparent": STALE})

    with (
        traces.root(),
        failing(
            f"this {type(message).__name__} must carry the current trace, but carries another one:",
            "  in the message     trace 11111111111111111111111111111111 span 2222222222222222",
            "  the current trace  trace ID",
        ),
    ):
        traces.message(message).must_carry_the_current_trace()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_carries_none(traces: Traces, shape: Callable[[Text], object]) -> None:
    message = traces.message(shape({"tenant": "7"})).must_carry_no_trace()

    with (
        traces.root(),
        pytest.raises(AssertionError, match=r"must carry the current trace, but it has no header"),
    ):
        message.must_carry_the_current_trace()
    assert message.context is None


@pytest.mark.parametrize(
    "message",
    [
        aiokafka_record({}),
        confluent_kafka.Message(topic="orders", value=b""),
        pika.BasicProperties(),
        aio_pika.Message(b""),
        {},
        (),
    ],
    ids=repr,
)
def test_there_are_no_headers_at_all(traces: Traces, message: object) -> None:
    with (
        traces.root(),
        failing(
            f"this {type(message).__name__} must carry the current trace, but it has no header traceparent:",
            "  in the message     no headers at all",
            "  the current trace  trace ID",
        ),
    ):
        traces.message(message).must_carry_the_current_trace()


@pytest.mark.parametrize(
    ("headers", "fault", "told"),
    [
        ([("a", b"1"), ("b", b"2")], "it has no header traceparent:", "the headers 'a' and 'b'"),
        (
            [("traceparent", STALE.encode()), ("TraceParent", STALE.encode())],
            "its header traceparent is there 2 times, so somebody added another:",
            f"'{STALE}' and '{STALE}'",
        ),
        ([("traceparent", None)], "its traceparent is no text but NoneType:", "None"),
        (
            [("traceparent", b"\x1b[31m")],
            r"its traceparent is malformed: has 5 characters, fewer than 55: '\x1b[31m'",
            r"'\x1b[31m'",
        ),
        (
            [("traceparent", STALE.replace("2", "0").encode())],
            f"its traceparent is malformed: has a parent-id of zeros: '{STALE.replace('2', '0')}'",
            f"'{STALE.replace('2', '0')}'",
        ),
    ],
    ids=["absent", "duplicated", "no-text", "malformed", "zeros"],
)
def test_what_is_wrong_with_it_is_told(traces: Traces, headers: list[Any], fault: str, told: str) -> None:
    with (
        traces.root(),
        failing(
            f"this list must carry the current trace, but {fault}",
            f"  in the message     {told}",
            "  the current trace  trace ID",
        ),
    ):
        traces.message(headers).must_carry_the_current_trace()
    with failing(f"this list must carry a trace, but {fault}", f"  in the message  {told}"):
        traces.message(headers).must_carry_a_trace()


@pytest.mark.parametrize(
    ("sent", "fault", "told"),
    [
        ("rojo=1", "is stale:", "'rojo=1'"),
        (None, "is missing:", "none"),
        ("=", "is malformed: ", "'='"),
    ],
)
def test_a_trace_state_that_is_not_the_trace_s_is_told(
    traces: Traces, sent: str | None, fault: str, told: str
) -> None:
    context = TraceContext.new_root().child(trace_state=TraceState({"congo": "t61"}))
    headers = {"traceparent": context.to_traceparent(), **({} if sent is None else {"tracestate": sent})}

    with TraceContext.use(context), pytest.raises(AssertionError) as caught:
        traces.message(headers).must_carry_the_current_trace()

    said, *sides = str(caught.value).splitlines()
    assert said.startswith(f"this dict must carry the current trace, but its tracestate {fault}")
    assert sides[0].split() == ["in", "the", "message", told]
    assert sides[1:] in ([], ["  of the trace    'congo=t61'"])


def test_a_trace_state_that_is_the_trace_s_is_carried(traces: Traces) -> None:
    context = TraceContext.new_root().child(trace_state=TraceState({"congo": "t61", "rojo": "1"}))
    headers = [
        ("traceparent", context.to_traceparent()),
        ("tracestate", "congo=t61"),
        ("tracestate", "rojo=1"),
    ]

    with TraceContext.use(context):
        traces.message(headers).must_carry_the_current_trace()


def test_it_comes_from_its_sending(traces: Traces) -> None:
    with traces.root():
        order, paid = send(), send("paid")

    traces.message(order).must_come_from("send orders").must_carry("send paid")
    with pytest.raises(
        AssertionError, match="this dict must come from 'send orders', but names another span:"
    ):
        traces.message(paid).must_come_from("send orders")


def test_it_carries_baggage(traces: Traces) -> None:
    with traces.root(baggage={"tenant": "7", "other": "1"}):
        order = send()

    message = traces.message(order).must_carry_baggage(tenant="7")
    with failing(
        "this dict must carry baggage that it does not carry:",
        "  in the message  {'tenant': '7', 'other': '1'}",
        "  expected        {'tenant': '8'}",
    ):
        message.must_carry_baggage(tenant="8")


def test_it_carries_a_trace_where_it_must_not(traces: Traces) -> None:
    with failing("this dict must carry no trace, but it has:", f"  traceparent  '{STALE}'"):
        traces.message({"traceparent": STALE}).must_carry_no_trace()


@pytest.mark.parametrize(
    "message", [7, "traceparent", b"", None, object(), [1, 2], range(2), AsyncResult("1")], ids=repr
)
def test_what_has_no_headers_is_refused(traces: Traces, message: object) -> None:
    with pytest.raises(WrongUseError, match=r"no headers are found in .*: pass the message itself, or its"):
        traces.message(message)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("record", [aiokafka_record, kafka_python_record, confluent_message])
def test_a_batch_is_not_taken_for_its_first_message(
    traces: Traces, kind: type[list[object]], record: Callable[[Text], object]
) -> None:
    batch = kind([record({"traceparent": STALE}), record({})])

    with pytest.raises(WrongUseError, match=f"no headers are found in an object of type {kind.__name__}"):
        traces.message(batch)


def test_without_a_current_trace_none_can_be_compared(traces: Traces) -> None:
    with pytest.raises(WrongUseError, match=r"no trace is current here: say it inside of `with traces\.root"):
        traces.message({}).must_carry_the_current_trace()
