"""A Celery application with a real worker in a thread of this process, and the bare client beside it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

from celery import Celery, Task
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from kombu.connection import Connection
from kombu.entity import Queue

from contract.contexts import ambient
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import celery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from kombu.message import Message

PATIENCE: Final = 15
SETTLE: Final = "office.settle"
TICK: Final = 0.02  # the worker's loop may sleep for ten seconds unless something wakes it
OWN_HEADERS: Final = frozenset(
    [
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "replaced_task_nesting",
        "stamped_headers",
        "stamps",
    ]
)


def new_app(broker: str, queue: Queue) -> Celery:
    """Return an application whose only queue is *queue*."""
    app = Celery(f"app-{uuid4().hex}", broker=broker, set_as_current=False)
    app.conf.update(
        task_queues=[queue],
        task_default_queue=queue.name,
        task_ignore_result=True,
        task_publish_retry=False,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
    )
    return app


def wait_until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.002)


def task(app: Celery, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return Celery's own decorator, with a type, for a task of this app alone."""
    decorator: Callable[[Callable[..., Any]], Any] = app.task(shared=False, **options)
    return decorator


@contextlib.contextmanager
def hooked(app: Celery, **options: Any) -> Iterator[None]:
    celery.install(app, **options)
    try:
        yield
    finally:
        celery.uninstall(app)


class Mailbox:
    """A queue without a worker, read by the bare client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.queue = Queue(f"orders-{uuid4().hex}")

    def __enter__(self) -> Self:
        self._bound = self.queue(self._connection.default_channel)
        self._bound.declare()
        return self

    def __exit__(self, *_: object) -> None:
        self._bound.delete()

    def message(self) -> Message:
        messages: list[Message] = []

        def has_arrived() -> bool:
            message = self._get()
            messages.extend([] if message is None else [message])
            return bool(messages)

        wait_until(has_arrived, "no message arrived")
        return messages[0]

    def _get(self) -> Message | None:
        message: Message | None = self._bound.get(no_ack=True)
        return message


class Desk:
    """An application that nobody works for, and the mailbox that gets what it sends."""

    def __init__(self, connection: Connection, broker: str) -> None:
        self._connection = connection
        self.mailbox = Mailbox(connection)
        self.app = new_app(broker, Queue(f"desk-{uuid4().hex}"))
        self.app.conf.task_routes = (self._route,)
        self.old_app = new_app(broker, Queue(f"desk-{uuid4().hex}"))
        self.old_app.conf.update(task_routes=(self._route,), task_protocol=1)

        @task(self.app, name="desk.order")
        def order(*items: object) -> None:
            """Run nowhere."""

        self.order: Any = order

    @contextlib.contextmanager
    def with_new_mailbox(self) -> Iterator[Self]:
        self.mailbox = Mailbox(self._connection)
        with self.mailbox:
            yield self

    def _route(self, *_: object, **__: object) -> dict[str, Any]:
        return {"queue": self.mailbox.queue}


@contextlib.contextmanager
def open_desk(broker: str) -> Iterator[Desk]:
    with Connection(broker) as connection:
        desk = Desk(connection, broker)
        yield desk
        desk.app.close()
        desk.old_app.close()


class Office:
    """Runs what tests hand over in a worker, in messages that no hook has touched.

    Attributes:
        app: The worker's application, hooked by nobody.
    """

    def __init__(
        self, broker: str, *, protocol: int = 2, pool: str = "threads", concurrency: int = 1
    ) -> None:
        # One connection for all deliveries: to open hundreds is slow, and now and then one is not answered.
        self._connection = Connection(broker, connect_timeout=PATIENCE)
        self._publishing = threading.Lock()
        self._pool = pool
        self._concurrency = concurrency
        self._queue = Queue(f"office-{uuid4().hex}", auto_delete=True)
        self.app = new_app(broker, self._queue)
        self.app.conf.task_protocol = protocol
        bodies: dict[str, Callable[[Task], object]] = {}

        @task(self.app, name="office.call", bind=True, max_retries=None)
        def call(self: Task, key: str) -> object:
            return bodies[key](self)

        @task(self.app, name=SETTLE)
        def settle(key: str) -> None:
            self._settled.remove(key)

        self.call = call
        self._bodies = bodies
        self._settled: set[str] = set()

    @contextlib.contextmanager
    def open(self) -> Iterator[Self]:
        def leave_logging_alone(**_: object) -> None:
            """Keep Celery from taking the handlers off the root logger."""

        setup_logging.connect(leave_logging_alone)
        started: Any = start_worker(
            self.app, pool=self._pool, concurrency=self._concurrency, perform_ping_check=False
        )
        with self._connection, started as worker:
            worker.timer.call_repeatedly(TICK, lambda: None)
            yield self
        setup_logging.disconnect(leave_logging_alone)
        self.app.close()

    def take(self, body: Callable[[Task], object]) -> str:
        """Return the key under which the task `office.call` runs *body*."""
        key = uuid4().hex
        self._bodies[key] = body
        return key

    def deliver(
        self,
        key: str,
        headers: dict[str, Any],
        *,
        protocol: int = 2,
        task_id: str = "",
        name: str = "office.call",
    ) -> None:
        """Publish a call by the bare client."""
        task_id = task_id or uuid4().hex
        payload: Any = [[key], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        wire = {"lang": "py", "task": name, "id": task_id, "root_id": task_id, **headers}
        if protocol == 1:
            payload = {"task": name, "id": task_id, "args": [key], "kwargs": {}, "retries": 0}
            wire = headers
        with self._publishing, self._connection.Producer() as producer:
            producer.publish(
                json.dumps(payload),
                routing_key=self._queue.name,
                headers=wire,
                content_type="application/json",
                content_encoding="utf-8",
                correlation_id=task_id,
            )

    def run(
        self, body: Callable[[], object], headers: dict[str, Any] | None = None, *, protocol: int = 2
    ) -> Any:
        """Run *body* in the worker's thread and return or raise what it returned or raised."""
        done = threading.Event()
        returned: list[object] = []
        raised: list[BaseException] = []

        def observed(_: Task) -> None:
            try:
                returned.append(body())
            except BaseException as error:
                raised.append(error)
                raise
            finally:
                done.set()

        self.deliver(self.take(observed), headers or {}, protocol=protocol)
        assert done.wait(PATIENCE), "the worker did not run the task"
        if raised:
            raise raised.pop()
        return returned[0]

    def settle(self) -> None:
        """Wait until a worker that does one thing at a time has ended all that came before."""
        key = uuid4().hex
        self._settled.add(key)
        self.deliver(key, {}, name=SETTLE)
        wait_until(lambda: key not in self._settled, "the worker did not settle")

    def ambient(self) -> AbstractContextManager[None]:
        """Make what is current in this thread so in the worker's; see `contract.contexts.ambient`."""
        return ambient(self.run)


class Step:
    """A task of an office, for a canvas.

    Attributes:
        signature: How to call it.
        headers: The headers that it was called with.
    """

    def __init__(self, office: Office) -> None:
        self.signature = office.call.si(office.take(self.look))
        self.headers: dict[str, Any] | None = None
        self._context: TraceContext | None = None
        self._done = threading.Event()

    def wait(self) -> None:
        """Wait until it has run."""
        assert self._done.wait(PATIENCE)

    def context(self) -> TraceContext:
        """Return the context in which it ran, once it has."""
        self.wait()
        assert self._context is not None
        return self._context

    def look(self, running: Task) -> None:
        """Keep what the running task sees."""
        self._context, self.headers = TraceContext.get(), running.request.headers
        self._done.set()
