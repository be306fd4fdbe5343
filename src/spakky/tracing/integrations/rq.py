"""RQ: a class of queues that send the context, and a class of jobs that run in it.

    queue = rq.TraceQueue("orders", connection=redis)
    queue.enqueue(pack, 1)

A worker is started as `rq worker orders --job-class spakky.tracing.integrations.rq.TraceJob`. RQ takes both
classes wherever it makes a queue or a job: as arguments, on the command line, from its environment
(`RQ_JOB_CLASS`). A queue of another class sends the context by hand, as
`queue.enqueue(pack, 1, meta=rq.headers({"user": 7}))`. Options are given to a class of one's own, which
workers can import too:

    class ShopJob(rq.TraceJob, relation={"shop.audit": "link"}): ...

Facts:

- A job has no headers. The context is in `job.meta`, next to what the user has there, as other tracers write
  it. So `traceparent`, `tracestate` and `baggage` are reserved names in it.
- RQ keeps the meta of a job for its next attempts. All attempts are children of who sent the job, also those
  of `Retry`, of `requeue()` and after a work horse was killed. A repetition (`Repeat`) is so too, and its
  attempts are counted anew. Under `link` and `root` each attempt is a trace of its own.
- A job that came without a context starts a trace, and leaves its own context to its retries. If its work
  horse was killed, or somebody requeues it, the next attempt starts another one.
- Cron jobs carry no context, so each tick is a trace of its own.
- A callback runs in the context of the job that it follows. `on_stopped` runs in another process than the
  job, as `on_failure` does for a job that was abandoned: they see the sender's context.
- Exception handlers of a worker run outside of any context; `context_from(job)` tells them the sender's.
- A job ends when its function returns. If RQ cannot store the result, or a callback fails, RQ counts the job
  as failed, although its span says `ok`.
- A work horse ends by `os._exit`. A tracer that keeps spans back has to write them before that.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Final

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import Options, ReceiveOptions, SendOptions, Settings
from spakky.tracing.boundaries.process import Processing, Receiver
from spakky.tracing.boundaries.publish import Publishing, Sender
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import Delivery, count_in
from spakky.tracing.carriers.mapping import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError

try:
    from rq import Queue, Retry
    from rq.exceptions import DeserializationError
    from rq.job import Job
except ModuleNotFoundError as error:
    raise_missing_extra("rq", {"rq"}, error)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    from redis import Redis
    from redis.client import Pipeline
    from rq.queue import EnqueueData

__all__ = ["TraceJob", "TraceQueue", "context_from", "headers"]

_STARTS: Final = "spakky_tracing_starts"  # in the hash that RQ keeps of a job
_EAGER: Final = "sync"  # what RQ calls the worker of a queue that is not async: it tries nothing again
_UNREADABLE: Final = "unserialized"  # in the place of a meta that RQ could not read and will not overwrite
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _function(job: Job) -> str:
    """Return the name of the function that *job* calls, empty if RQ cannot read it."""
    try:
        return job.func_name or ""
    except DeserializationError:
        return ""


def _delivery(job: Job) -> Delivery:
    """Return how often *job* was started, if that is counted, and when it was enqueued last."""
    attempt = job.trace_attempt if isinstance(job, TraceJob) else None
    if job.enqueued_at is None:
        return Delivery(attempt=attempt)
    since = job.enqueued_at.replace(tzinfo=UTC) - _EPOCH
    return Delivery(attempt=attempt, sent_unix_nano=since // _MICROSECOND * 1_000)


_CLIENT: Final[Client[Job, dict[str, Any]]] = Client(
    system="rq",
    carrier=CARRIER,
    message_type=Job,
    headers=lambda job: job.meta,
    destination=lambda job: job.origin,
    name=lambda job: f"run {_function(job)}",
    names=lambda job: (_function(job), job.origin),
    delivery=_delivery,
    attributes=lambda job: {"messaging.message.id": job.id},
)
_VERBS: Final = Verbs(_CLIENT)

headers = _VERBS.headers
context_from = _VERBS.context_from


class TraceJob(Job):
    """A job that runs in the context it carries; otherwise it is RQ's own.

    A subclass takes options as keywords, on top of those of the class that it comes from.
    """

    _trace_settings: ClassVar[Settings] = _VERBS.settings(ReceiveOptions, {})
    _trace_receiver: ClassVar[Receiver[Job]] = Receiver(_CLIENT, _trace_settings)

    # of one job
    _trace_starts: int = 0
    _trace_context: TraceContext | None = None  # what it runs in, or ran in
    _trace_meta: Mapping[str, Any] = {}  # what its next attempt comes from

    def __init_subclass__(cls, **options: Unpack[ReceiveOptions]) -> None:
        """Make a class of jobs with options of its own.

        Args:
            **options: See `ReceiveOptions`.

        Raises:
            WrongUseError: An option is not known.
        """
        super().__init_subclass__()
        cls._trace_settings = Settings(ReceiveOptions, options, cls._trace_settings)
        cls._trace_receiver = Receiver(_CLIENT, cls._trace_settings)

    @property
    def trace_attempt(self) -> int | None:
        """1 for the first try, 2 for the first retry; `None` before a worker has begun it."""
        return self._trace_starts or None

    def restore(self, raw_data: Any) -> Any:
        """Read the job from its hash in Redis, and how often it was started."""
        super().restore(raw_data)
        count, _, episode = bytes(raw_data.get(_STARTS.encode(), b"")).partition(b" ")
        self._trace_starts = (count_in(count) or 0) if episode == self._trace_episode.encode() else 0

    def prepare_for_execution(self, worker_name: str, pipeline: Pipeline) -> None:
        """Note that a worker begins the job; a work horse that is killed cannot take that back."""
        super().prepare_for_execution(worker_name, pipeline)
        self._trace_starts += 1
        pipeline.hset(self.key, _STARTS, f"{self._trace_starts} {self._trace_episode}")

    def perform(self) -> Any:
        """Call the job's function in the context of the job."""
        with self._trace_receiver.process(self) as processing:
            self._trace_context = processing.context
            self._trace_meta = self._trace_fields() if processing.context is not None else {}
            try:
                result = super().perform()
            except BaseException as error:
                if self.should_retry and self.worker_name != _EAGER:
                    processing.close("retry", error)
                self._hand_on(processing)
                raise
            if isinstance(result, Retry):
                processing.close("retry" if (self.number_of_retries or 0) < result.max else "error")
                self._hand_on(processing)
            return result

    def save_meta(self) -> None:
        """Store what the user has in `meta`, and what the job came with, also if that was overwritten."""
        meta, self.meta = self.meta, self._with_trace(self.meta)
        try:
            super().save_meta()  # type: ignore[no-untyped-call] # RQ types only a part of itself
        finally:
            self.meta = meta

    @property
    def success_callback(self) -> Any:
        """The callback for success, which runs in the context of the job."""
        return self._in_context(super().success_callback)

    @property
    def failure_callback(self) -> Any:
        """The callback for failure, which runs in the context of the job."""
        return self._in_context(super().failure_callback)

    @property
    def stopped_callback(self) -> Any:
        """The callback for a job that was stopped, which runs in the context of the sender."""
        return self._in_context(super().stopped_callback)

    @property
    def _trace_episode(self) -> str:
        """What attempts are counted for: a job may be made again under its old id, and be repeated."""
        return f"{self.created_at:%Y%m%d%H%M%S%f} {self.repeats_left}"

    def _trace_fields(self) -> dict[str, Any]:
        """Return what is of the trace in `meta`."""
        fields = self._trace_receiver.policy.fields
        meta = self.meta if isinstance(self.meta, Mapping) else {}
        return {name: meta[name] for name in meta if isinstance(name, str) and name.lower() in fields}

    def _hand_on(self, processing: Processing[Job]) -> None:
        """Leave in `meta` what the next attempt comes from: the sender, or else this attempt."""
        context = processing.context
        if context is not None and context.parent_span_id is None and not processing.links:
            with TraceContext.use(context):
                self._trace_meta = Sender(_CLIENT, self._trace_settings).headers()
        self.meta = self._with_trace(self.meta)

    def _with_trace(self, meta: Any) -> Any:
        """Return *meta* with what the next attempt comes from; itself if that is in it."""
        if not isinstance(meta, Mapping) or _UNREADABLE in meta:
            return meta
        if all(meta.get(name) is value for name, value in self._trace_meta.items()):
            return meta
        return {**CARRIER.copy(meta, self._trace_receiver.policy.fields), **self._trace_meta}

    def _in_context(self, callback: Any) -> Any:
        """Return *callback*, run in the context of the job; itself if it is none that RQ calls."""
        if callback is None or inspect.iscoroutinefunction(callback) or not self._trace_receiver.reads(self):
            return callback

        @wraps(callback)
        def called(*args: object, **kwargs: object) -> object:
            with TraceContext.use(self._context_of_callback()):
                return callback(*args, **kwargs)

        return called

    def _context_of_callback(self) -> TraceContext:
        """Return the context that the job ran in; where it ran in another process, what it came from."""
        if self._trace_context is not None:
            return self._trace_context
        sender = self._trace_receiver.context_from(self)
        if sender is None or self._trace_receiver.relation_to(self) != "child":
            return TraceContext.new_root()
        return sender


class TraceQueue(Queue):
    """A queue whose jobs carry the context of who enqueues them; otherwise it is RQ's own.

    A job that ran before keeps the context that it came with. A subclass takes options as keywords, on top
    of those of the class that it comes from.
    """

    job_class = TraceJob

    _trace_settings: ClassVar[Settings] = _VERBS.settings(SendOptions, {})
    _trace_sender: ClassVar[Sender[dict[str, Any]]] = Sender(_CLIENT, _trace_settings)

    def __init_subclass__(cls, **options: Unpack[SendOptions]) -> None:
        """Make a class of queues with options of its own.

        Args:
            **options: See `SendOptions`.

        Raises:
            WrongUseError: An option is not known.
        """
        super().__init_subclass__()
        cls._trace_settings = Settings(SendOptions, options, cls._trace_settings)
        cls._trace_sender = Sender(_CLIENT, cls._trace_settings)

    def __init__(
        self, name: str = "default", connection: Redis | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Make a queue, with the arguments of RQ's own.

        Raises:
            WrongUseError: There is an option of ours among them, which RQ would drop without a word.
        """
        for option in kwargs.keys() & Options.__annotations__.keys():
            message = f"a queue takes options by its class: class ShopQueue(TraceQueue, {option}=...)"
            raise WrongUseError(message)
        super().__init__(name, connection, *args, **kwargs)

    def enqueue_job(self, job: Job, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a job; all ways to enqueue one at once come here."""
        with self._sending(job):
            return super().enqueue_job(job, *args, **kwargs)

    def schedule_job(self, job: Job, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a job for later; all ways to do so come here."""
        with self._sending(job):
            return super().schedule_job(job, *args, **kwargs)

    def enqueue_many(self, job_datas: Iterable[EnqueueData], *args: Any, **kwargs: Any) -> list[Job]:
        """Enqueue several jobs, each with a sending of its own."""
        with ExitStack() as sendings:
            carrying = []
            for data in job_datas:
                publishing = self._publish(self._function(data), data.meta)
                sendings.enter_context(publishing)
                carrying.append(data._replace(meta=publishing.headers))  # a method of every named tuple
            return super().enqueue_many(carrying, *args, **kwargs)

    def _sending(self, job: Job) -> AbstractContextManager[object]:
        if job.started_at is not None:
            return nullcontext()
        publishing = self._publish(_function(job), job.meta)
        job.meta = publishing.headers
        return publishing

    def _publish(self, function: str, meta: object) -> Publishing[dict[str, Any]]:
        return self._trace_sender.publish(
            meta, self.name, names=(function, self.name), name=f"send {function}"
        )

    def _function(self, data: EnqueueData) -> str:
        """Return the name that RQ gives to the function of a job that is not made yet."""
        return _function(self.job_class.create(data.func, connection=self.connection))
