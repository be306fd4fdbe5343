"""arq: wrap the pool that enqueues, hook the settings of the worker once.

Usage:

    pool = arq.wrap(await create_pool(...))
    await pool.enqueue_job("pack", 1)

    class WorkerSettings:
        functions = [pack]

    arq.install(WorkerSettings)

What is enqueued carries the current context, also by `ctx["redis"]`, and every job runs in the context that
it carries: its function, the hooks `on_job_start`, `on_job_end` and `after_job_end`, and what arq logs of it.
A message is the `ctx` of a job. Facts:

- arq's jobs have no headers. A job is a dict that arq gives to the pool's `job_serializer`; there it gets one
  more entry, `headers`, a dict of text. Workers that are not hooked do not look at it (arq 0.25 to 0.28).
- A job stays as it was enqueued in all its attempts, so these are children of the first sender. Where that is
  nobody, or the relation is not `child`, each attempt is a trace of its own.
- A worker enqueues its cron jobs itself, outside of any trace: each time is a trace of its own.
- No function runs, and nothing is recorded, for a job that expired, was aborted before its start, was tried
  too often, cannot be read, or names a function that the worker does not know.
- A job that takes too long, is aborted, or has to stop with its worker ends by the same cancellation.
"""

from __future__ import annotations

import logging
import pickle
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import Options, Policy, SendOptions, Settings
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import Delivery
from spakky.tracing.carriers.mapping import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError

try:
    from arq import ArqRedis, Retry, func
    from arq.constants import default_queue_name
    from arq.worker import RetryJob
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("arq", {"arq", "wrapt"}, error)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
    from datetime import datetime
    from types import TracebackType
    from typing import TypeAlias, Unpack

    from arq.cron import CronJob
    from arq.jobs import Deserializer, Job, Serializer
    from arq.typing import WorkerCoroutine
    from arq.worker import Function

    from spakky.tracing.boundaries.process import Processing
    from spakky.tracing.context import Scope

    _Ctx: TypeAlias = dict[Any, Any]
    _Hooked: TypeAlias = Callable[[_Ctx], Awaitable[Any]]

__all__ = ["context_from", "install", "uninstall", "unwrap", "wrap"]

_logger: Final = logging.getLogger("spakky.tracing")

_HEADERS: Final = "headers"  # in a job's dict
_RUN: Final = "spakky_tracing_run"  # in a job's ctx


def _run_in(ctx: Mapping[Any, Any]) -> _Run | None:
    run = ctx.get(_RUN)
    return run if isinstance(run, _Run) else None


def _is_ctx(message: object) -> bool:
    return isinstance(message, dict) and _run_in(message) is not None


def _delivery(ctx: _Ctx) -> Delivery:
    return Delivery(attempt=ctx["job_try"], sent_unix_nano=_nanoseconds(ctx["enqueue_time"]))


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000) * 1_000_000  # arq has milliseconds


_CLIENT: Final[Client[Any, dict[str, Any]]] = Client(
    system="arq",
    carrier=CARRIER,
    message_type=dict,
    message_name="ctx of a job of a hooked worker",
    is_message=_is_ctx,
    headers=lambda ctx: ctx[_RUN].headers,
    destination=lambda ctx: ctx[_RUN].queue,
    name=lambda ctx: f"run {ctx[_RUN].function}",
    names=lambda ctx: (ctx[_RUN].function, ctx[_RUN].queue),
    delivery=_delivery,
    attributes=lambda ctx: {"messaging.message.id": ctx["job_id"]},
)
_VERBS: Final = Verbs(_CLIENT)

context_from = _VERBS.context_from


def wrap(pool: ArqRedis, **options: Unpack[SendOptions]) -> ArqRedis:
    """Return a pool whose jobs carry the current context; *pool* itself stays as it is.

    Its `enqueue_job` takes one keyword more, `_headers`: a mapping with headers of the caller's own, for
    `keep=` and for propagators of other formats. Everything else is *pool*'s own. Wrapping what is wrapped
    replaces its options.

    Args:
        pool: What `create_pool` returns.
        **options: See `SendOptions`. Names are those of the function and of the queue.

    Raises:
        WrongUseError: This is no pool, or one behind a proxy of somebody else's, or an option is not known.
    """
    settings = _VERBS.settings(SendOptions, options)
    bare = unwrap(pool)
    if not _is_bare(bare):
        message = f"wrap() takes the ArqRedis that create_pool() returns itself, got {type(pool).__name__}"
        raise WrongUseError(message)
    return cast("ArqRedis", _Pool(bare, settings))


def unwrap(pool: ArqRedis) -> ArqRedis:
    """Return what was given to `wrap`, or *pool* itself if it is not wrapped."""
    wrapped: object = pool
    return cast("ArqRedis", wrapped.__wrapped__) if isinstance(wrapped, _Pool) else pool


def install(settings: type[Any] | dict[str, Any], **options: Unpack[Options]) -> None:
    """Hook the *settings* of a worker; call it where they are made. Hooking again replaces the options.

    The functions, hooks and serializers in them stay in use, inside of ours. A worker that is made before
    is not hooked.

    Args:
        settings: The class, or the dict, that arq makes a worker of.
        **options: See `Options`. Names are those of the function and of the queue.

    Raises:
        WrongUseError: This is neither a class nor a dict, or an option is not known.
    """
    policy = Policy.of(Options, options)
    keywords = _Keywords.of(settings)
    _take_off(keywords)
    hook = _Hook(keywords, policy)
    for name, part in _PARTS.items():
        original = keywords.get(name)
        if original is not None or part.is_needed:
            keywords.set(name, part(hook, original, was_given=name in keywords))


def uninstall(settings: type[Any] | dict[str, Any]) -> None:
    """Undo `install`; nothing happens if *settings* are not hooked. Workers that are made stay as they are.

    Raises:
        WrongUseError: This is neither a class nor a dict.
    """
    _take_off(_Keywords.of(settings))


def _take_off(keywords: _Keywords) -> None:
    for name in _PARTS:
        part = keywords.get(name)
        if not isinstance(part, (_Part, _Listed)):
            continue
        if part.was_given:
            keywords.set(name, part.original)
        else:
            keywords.remove(name)


# --- sending


def _is_bare(pool: object) -> bool:
    return issubclass(type(pool), ArqRedis)


class _Pool(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A pool whose jobs carry the current context."""

    def __init__(self, pool: ArqRedis, settings: Settings) -> None:
        super().__init__(pool)
        self._self_sender = Sender(_CLIENT, settings)

    async def enqueue_job(
        self, function: str, *args: Any, _headers: Mapping[str, Any] | None = None, **named: Any
    ) -> Job | None:
        given = named.get("_queue_name")
        queue = self.__wrapped__.default_queue_name if given is None else given
        publishing = self._self_sender.publish(
            _headers, queue, names=(function, queue), name=f"send {function}"
        )
        with publishing:
            pool = _WithHeaders(self.__wrapped__, publishing.headers)
            job: Job | None = await type(self.__wrapped__).enqueue_job(pool, function, *args, **named)
            if job is None:  # there is one of that id already
                publishing.end_as("ignored")
        return job

    def __await__(self) -> Generator[Any, Any, Self]:
        yield from self.__wrapped__.__await__()
        return self

    async def __aenter__(self) -> Self:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.__wrapped__.__aexit__(kind, error, trace)


class _WithHeaders(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A pool for one job, which gets headers where it is serialized."""

    def __init__(self, pool: ArqRedis, headers: Mapping[str, Any] | None) -> None:
        super().__init__(pool)
        self._self_headers = headers

    @property
    def job_serializer(self) -> Serializer:
        return self._serialized

    def _serialized(self, job: dict[str, Any]) -> bytes:
        return _serialized(job, self._self_headers, self.__wrapped__.job_serializer)


def _serialized(
    job: dict[str, Any], headers: Mapping[str, Any] | None, serializer: Serializer | None
) -> bytes:
    """Return *job* as bytes, with *headers* if there are any and the pool's own *serializer* takes them."""
    serialize = serializer or pickle.dumps
    if headers:
        with suppress(Exception):  # a serializer may be anybody's, and strict
            return serialize({**job, _HEADERS: headers})
        body = serialize(job)
        _logger.warning("a job is sent without trace context: its serializer takes no more than arq's fields")
        return body
    return serialize(job)


# --- receiving


class _Arrived(NamedTuple):
    """What the deserializer has seen of a job."""

    function: str = ""
    headers: object = None


# The job of this task: arq deserializes a job in the task that then runs the hooks and starts the function.
_arrived: Final[ContextVar[_Arrived | None]] = ContextVar("spakky.tracing.arq.arrived", default=None)


class _Run:
    """A job while it runs, kept in its ctx, which ends with it.

    Attributes:
        function: The name of the function.
        queue: The name of the queue.
        headers: What the job has for headers.
    """

    def __init__(self, arrived: _Arrived, queue: str) -> None:
        self.function = arrived.function
        self.headers = arrived.headers
        self.queue = queue
        self._processing: Processing[Any] | None = None
        self._waiting: Processing[Any] | None = None
        self._scope: Scope | None = None

    def begin(self, processing: Processing[Any]) -> None:
        """Start the processing, which the function enters in a task of its own."""
        processing.open()
        processing.pause()
        self._processing = self._waiting = processing

    def take(self) -> Processing[Any] | None:
        """Return the processing for the function to enter, `None` if it has entered it before."""
        waiting, self._waiting = self._waiting, None
        return waiting

    def enter(self) -> None:
        """Make the job's context current around the function, for hooks and logs."""
        if self._processing is not None and self._processing.context is not None:
            self._scope = TraceContext.use(self._processing.context).open()

    def end(self, error: BaseException | None = None) -> None:
        """Record the end of a job whose function has not done so."""
        if self._processing is not None:
            self._processing.close("unknown" if error is None else outcome_of(error), error)

    def leave(self) -> None:
        """Put back what was current before the job."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.close()


class _Hook:
    """What belongs to the settings of one worker.

    Attributes:
        sending: The options of what its jobs enqueue.
    """

    def __init__(self, keywords: _Keywords, policy: Policy) -> None:
        self.sending = Settings.fixed(policy)
        self._keywords = keywords
        self._sender = Sender(_CLIENT, self.sending)
        self._receiver = Receiver(_CLIENT, Settings.fixed(policy))

    def run_of(self, ctx: _Ctx) -> _Run:
        """Return the run of a job, which begins unless it has."""
        run = _run_in(ctx)
        if run is None:
            run = ctx[_RUN] = _Run(_arrived.get() or _Arrived(), self._queue_of(ctx))
            run.begin(self._receiver.process(ctx))
        return run

    def runs_in_context(self, coroutine: WorkerCoroutine) -> WorkerCoroutine:
        """Return a function of arq that runs in the context of its job."""

        @wraps(coroutine)
        async def run(ctx: _Ctx, *args: object, **named: object) -> object:
            processing = self.run_of(ctx).take()
            if processing is None:
                return await coroutine(ctx, *args, **named)
            with processing:
                try:
                    return await coroutine(ctx, *args, **named)
                except (Retry, RetryJob) as error:
                    if self._keywords.get("retry_jobs") is not False:  # or else it fails by that
                        processing.close("retry", error.__cause__ or error.__context__)
                    raise

        return cast("WorkerCoroutine", run)

    def headers_of_a_tick(self, function: str) -> dict[str, Any] | None:
        """Return headers for a cron job that the worker enqueues, `None` if that is switched off."""
        queue = self._keywords.get("queue_name") or default_queue_name
        publishing = self._sender.publish(
            None, queue, names=(function, queue), name=f"send {function}", is_scheduled=True
        )
        publishing.end()
        return publishing.headers

    @property
    def has_cron_jobs(self) -> bool:
        """Whether the worker enqueues jobs itself."""
        return bool(self._keywords.get("cron_jobs"))

    def is_cron(self, function: str) -> bool:
        """Tell whether the worker itself enqueues *function*, each time that it is due."""
        return any(each.name == function for each in self._keywords.get("cron_jobs") or ())

    def _queue_of(self, ctx: _Ctx) -> str:
        """Return the worker's queue: a pool that it has made itself knows it, another one may not."""
        name = self._keywords.get("queue_name") if self._keywords.get("redis_pool") is not None else None
        return str(name or getattr(ctx.get("redis"), "default_queue_name", ""))


# --- the settings of a worker


class _Keywords:
    """The keywords that arq makes a worker of: the attributes of a class itself, or the items of a dict."""

    def __init__(self, settings: type[Any] | dict[str, Any]) -> None:
        self._settings = settings

    @classmethod
    def of(cls, settings: object) -> Self:
        """Return the keywords in *settings*.

        Raises:
            WrongUseError: This is neither a class nor a dict.
        """
        if not isinstance(settings, (type, dict)):
            message = f"this takes the class or dict of a worker's settings, got {type(settings).__name__}"
            raise WrongUseError(message)
        return cls(settings)

    def __contains__(self, name: str) -> bool:
        return name in self._items()

    def get(self, name: str) -> Any:
        """Return what is given for *name*, `None` if nothing is."""
        return self._items().get(name)

    def set(self, name: str, value: object) -> None:
        """Give *value* for *name*."""
        if isinstance(self._settings, dict):
            self._settings[name] = value
        else:
            setattr(self._settings, name, value)

    def remove(self, name: str) -> None:
        """Give nothing for *name*."""
        if isinstance(self._settings, dict):
            del self._settings[name]
        else:
            delattr(self._settings, name)

    def _items(self) -> Mapping[str, Any]:
        return self._settings if isinstance(self._settings, dict) else vars(self._settings)


class _Part:
    """Something of ours in a worker's settings, around what was there.

    Attributes:
        is_needed: Whether it is put there also where nothing was.
        original: What was there, `None` for nothing.
        was_given: Whether it was there at all, be it `None`.
    """

    is_needed: ClassVar[bool] = True

    def __init__(self, hook: _Hook, original: Any, *, was_given: bool) -> None:
        self.original = original
        self.was_given = was_given
        self._hook = hook


class _JobSerializer(_Part):
    """Serializes what the worker itself enqueues, and results."""

    def __call__(self, job: dict[str, Any]) -> bytes:
        original: Serializer | None = self.original
        return _serialized(job, self._headers_for(job), original)

    def _headers_for(self, job: Mapping[str, Any]) -> Mapping[str, Any] | None:
        is_result = "s" in job
        if is_result or _HEADERS in job or not self._hook.is_cron(job["f"]):
            return None
        return self._hook.headers_of_a_tick(job["f"])


class _JobDeserializer(_Part):
    """Takes the headers out of a job that has arrived."""

    def __call__(self, data: bytes) -> dict[str, Any]:
        original: Deserializer = self.original or pickle.loads
        job = original(data)
        function = _field(job, "f")
        _arrived.set(_Arrived(function if isinstance(function, str) else "", _field(job, _HEADERS)))
        return job


def _field(job: Any, name: str) -> object:
    """Return a field of what a deserializer has made of a job, `None` if there is none."""
    with suppress(Exception):  # it may be anything that arq gets its own fields from
        return job[name]
    return None


class _OnStartup(_Part):
    """Wraps the pool that is in the ctx of every job, in the task that then enqueues the cron jobs."""

    async def __call__(self, ctx: _Ctx) -> None:
        pool: Any = ctx.get("redis")
        if _is_bare(pool):
            ctx["redis"] = _Pool(pool, self._hook.sending)
        elif self._hook.has_cron_jobs:  # which a wrapped pool would send in what is current here
            TraceContext.clear()
        await _call(self.original, ctx)


class _OnJobStart(_Part):
    """Begins a job."""

    async def __call__(self, ctx: _Ctx) -> None:
        run = self._hook.run_of(ctx)
        run.enter()
        try:
            await _call(self.original, ctx)
        except BaseException as error:  # arq goes no further
            run.end(error)
            run.leave()
            raise


class _OnJobEnd(_Part):
    """Ends a job whose function has not been started, such as one that was cancelled right before."""

    async def __call__(self, ctx: _Ctx) -> None:
        self._hook.run_of(ctx).end()
        await _call(self.original, ctx)


class _AfterJobEnd(_Part):
    """Leaves a job."""

    async def __call__(self, ctx: _Ctx) -> None:
        try:
            await _call(self.original, ctx)
        finally:
            self._hook.run_of(ctx).leave()


async def _call(original: _Hooked | None, ctx: _Ctx) -> None:
    if original is not None:
        await original(ctx)


class _Listed(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A list of a worker's settings, which hooks what is in it when a worker is made of it."""

    is_needed: ClassVar[bool] = False

    def __init__(self, hook: _Hook, original: Any, *, was_given: bool) -> None:
        super().__init__(original)
        self._self_hook = hook
        self._self_was_given = was_given

    @property
    def original(self) -> Any:
        return self.__wrapped__

    @property
    def was_given(self) -> bool:
        return self._self_was_given


class _Functions(_Listed):
    """The functions of a worker."""

    def __iter__(self) -> Iterator[Function]:
        for each in self.original:
            function = func(each)  # which imports what is given by its name
            yield replace(function, coroutine=self._self_hook.runs_in_context(function.coroutine))


class _CronJobs(_Listed):
    """The cron jobs of a worker."""

    def __iter__(self) -> Iterator[CronJob]:
        for each in self.original:
            yield replace(each, coroutine=self._self_hook.runs_in_context(each.coroutine))


_PARTS: Final[Mapping[str, type[_Part | _Listed]]] = {
    "functions": _Functions,
    "cron_jobs": _CronJobs,
    "job_serializer": _JobSerializer,
    "job_deserializer": _JobDeserializer,
    "on_startup": _OnStartup,
    "on_job_start": _OnJobStart,
    "on_job_end": _OnJobEnd,
    "after_job_end": _AfterJobEnd,
}
