"""arq on a real Redis, with real workers: in this process, and in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from arq import ArqRedis, Retry, Worker, create_pool, cron, func
from arq.connections import RedisSettings
from arq.constants import result_key_prefix
from arq.jobs import Job, JobStatus, SerializationError
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from wrapt import ObjectProxy

from brokers.guarded import Guarded
from brokers.ports import free_port
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.receiving import SENDER, HandlerError, ReceivingContract
from contract.sending import SendingContract, Wire, kept
from integrations.arq_counter import (
    PATIENCE,
    Counter,
    Ctx,
    from_pickle,
    hooked,
    job_of,
    open_counter,
    stop,
    to_json,
    worker_of,
)
from integrations.worker_notes import read_notes
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.publish import Publishing
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import arq
from spakky.tracing.recorder import JsonLinesRecorder, MemoryRecorder, read_spans
from spakky.tracing.switch import switch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from spakky.tracing.recorder import Span


@pytest.fixture
async def counter(redis_url: str) -> AsyncIterator[Counter]:
    async with open_counter(redis_url) as counter:
        yield counter


class Looking:
    """A function of arq that notes in which context it runs."""

    def __init__(self) -> None:
        self.contexts: list[TraceContext] = []

    def job(self, name: str = "look") -> Any:
        return job_of(self.look, name)

    def look(self, _: object = None) -> None:
        context = TraceContext.get()
        assert context is not None
        self.contexts.append(context)

    async def hook(self, _: Ctx) -> None:
        self.look()


def runs(recorder: MemoryRecorder) -> list[Span]:
    return [span for span in recorder.spans if span.kind == "consumer"]


def sends(recorder: MemoryRecorder) -> list[Span]:
    return [span for span in recorder.spans if span.kind == "producer"]


class TestSending(SendingContract):
    ways = ["wrapped pool", "pool of a worker", "json"]
    recorded_ways = ways
    foreign = {"a": "text", "b": 7, "c": [1, "two"], "d": {"nested": "table"}, "e": None, "f": True}

    @pytest.fixture(autouse=True)
    def _on(self, counter: Counter) -> None:
        self.counter = counter

    async def send(self, way: str, headers: Any, *, item: object = 1, **options: Any) -> None:
        pool = await self._pool(way, **options)
        await pool.enqueue_job("order", item, _headers=headers)

    async def _pool(self, way: str, **options: Any) -> Any:
        if way == "wrapped pool":
            return arq.wrap(self.counter.pool, **options)
        if way == "json":
            return arq.wrap(self.counter.sibling(job_serializer=to_json_or_fail), **options)
        ctx: Ctx = {"redis": self.counter.pool}
        settings = self.counter.settings()
        with hooked(settings, **options):
            await settings["on_startup"](ctx)
        return ctx["redis"]

    async def arrived(self) -> Wire:
        job = await self.counter.raw()
        assert job.keys() - {"headers"} == {"t", "f", "a", "k", "et"}
        return {name: [value] for name, value in job.get("headers", {}).items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(SerializationError) as raised:
            await self.send(way, None, item=lambda: None, **options)  # neither pickle nor JSON
        return raised.value


def to_json_or_fail(job: dict[str, Any]) -> bytes:
    return json.dumps(job).encode()


class TestReceiving(ReceivingContract):
    ways = ["function", "function of a class", "on_job_start"]
    sees_errors = ways
    hostile_values = [
        "",
        b"\xff\xfe",
        "00-bad",
        "x" * 1_000_000,
        None,
        5,
        True,
        1.5,
        [1, 2],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
        object,
    ]

    @pytest.fixture(autouse=True)
    def _on(self, counter: Counter, caplog: pytest.LogCaptureFixture) -> None:
        """Leave out what keeps the ctx of a job that is over: its log with a traceback, kept by pytest."""
        self.counter = counter
        caplog.set_level(logging.CRITICAL, logger="arq.worker")

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        raised: list[BaseException] = []

        async def observed(_: Ctx) -> None:
            try:
                body()
            except BaseException as error:
                raised.append(error)
                raise

        await self.counter.deliver("call", headers)
        # Without a timeout, as asyncio keeps a timer that was cancelled, and the Context that it was made in.
        settings: Any = self.counter.settings(job_of(observed), retry_jobs=False, job_timeout=None)
        if way == "on_job_start":
            settings["functions"] = [job_of(lambda _: None)]
            settings["on_job_start"] = observed
        elif way == "function of a class":
            settings = type("WorkerSettings", (), settings)
        with contextlib.suppress(HandlerError, asyncio.CancelledError):  # of a hook they end the worker
            await self.counter.work(settings, **options)
        if raised:
            raise raised.pop()


class TestHooking:
    async def test_a_pool_that_is_wrapped_twice_is_wrapped_once(self, counter: Counter) -> None:
        """A-13, T-02: one span, and the options are the last ones."""
        first, second = MemoryRecorder(), MemoryRecorder()

        pool = arq.wrap(arq.wrap(counter.pool, tracer=first), tracer=second)
        await pool.enqueue_job("look")

        assert (len(first.spans), len(second.spans)) == (0, 1)
        assert arq.unwrap(pool) is counter.pool
        assert arq.unwrap(counter.pool) is counter.pool

    async def test_a_wrapped_pool_is_one_of_arq_s_own(self, counter: Counter) -> None:
        pool = arq.wrap(counter.pool)

        assert isinstance(pool, ArqRedis)
        assert pool.job_serializer is counter.pool.job_serializer
        pool.job_serializer = to_json
        assert counter.pool.job_serializer is to_json
        async with pool.pipeline() as pipe:
            pipe.incr(f"{counter.queue}:health-check")
            assert await pipe.execute() == [1]

    async def test_a_pool_of_the_user_s_own_class_stays_in_use(self, counter: Counter) -> None:
        class Counting(ArqRedis):
            count = 0

            async def enqueue_job(self, *args: Any, **named: Any) -> Job | None:
                self.count += 1
                return await super().enqueue_job(*args, **named)

        own = Counting(counter.pool.connection_pool, default_queue_name=counter.queue)
        with TraceContext.use(TraceContext.new_root()) as context:
            await arq.wrap(own).enqueue_job("look")

        assert context is not None
        assert own.count == 1
        assert (await counter.raw())["headers"] == {"traceparent": context.to_traceparent()}

    async def test_a_wrapped_pool_stays_wrapped_where_it_is_awaited_or_entered(self, redis_url: str) -> None:
        settings = RedisSettings.from_dsn(redis_url)
        pool = arq.wrap(ArqRedis(host=str(settings.host), port=settings.port))

        assert await pool is pool
        async with pool as entered:
            assert entered is pool
            assert await entered.ping()

    async def test_hooking_twice_is_hooking_once(self, counter: Counter) -> None:
        """A-13, T-02: one scope, one span, and the options are the last ones."""
        first, second, looking = MemoryRecorder(), MemoryRecorder(), Looking()
        await counter.deliver("look", {"traceparent": TRACEPARENT})
        settings = counter.settings(looking.job())

        arq.install(settings, tracer=first)
        await counter.work(settings, tracer=second)

        assert (len(first.spans), len(second.spans)) == (0, 1)
        assert len(looking.contexts) == 1
        assert looking.contexts[0].parent_span_id == SENDER.span_id

    @pytest.mark.parametrize("kind", ["dict", "class"])
    def test_settings_that_are_unhooked_are_as_they_were(self, kind: str) -> None:
        """A-13: nothing is left, and what was there is the very same."""

        async def look(ctx: Ctx) -> None: ...

        given: dict[str, Any] = {
            "functions": [look],
            "cron_jobs": (cron(look, second=1),),
            "on_job_start": look,
            "on_job_end": staticmethod(look),
            "after_job_end": None,
            "job_serializer": to_json,
        }
        settings: Any = dict(given) if kind == "dict" else type("WorkerSettings", (), given)
        before = dict(settings if kind == "dict" else vars(settings))

        with hooked(settings), hooked(settings, enabled=False):
            pass
        arq.uninstall(settings)

        after = dict(settings if kind == "dict" else vars(settings))
        assert list(after) == list(before)
        assert all(after[name] is before[name] for name in before)

    async def test_a_hook_that_was_replaced_since_stays(self, counter: Counter) -> None:
        settings = counter.settings(job_of(print))
        mine = Looking().hook
        arq.install(settings)
        settings["on_job_start"] = mine
        arq.uninstall(settings)

        assert settings["on_job_start"] is mine
        assert "on_job_end" not in settings

    async def test_a_worker_of_unhooked_settings_is_a_plain_one(self, counter: Counter) -> None:
        seen: list[Any] = []
        settings = counter.settings(job_of(lambda ctx: seen.append((TraceContext.get(), ctx))))
        await counter.deliver("call", {"traceparent": TRACEPARENT})
        with hooked(settings):
            pass
        await worker_of(settings).async_run()

        ((context, ctx),) = seen
        assert context is None
        assert ctx["redis"] is counter.pool
        assert sorted(ctx) == ["enqueue_time", "job_id", "job_try", "redis", "score"]

    async def test_a_worker_goes_on_hooked_when_its_settings_are_unhooked(self, counter: Counter) -> None:
        looking, recorder = Looking(), MemoryRecorder()
        await counter.deliver("look", {"traceparent": TRACEPARENT})

        settings = counter.settings(looking.job())
        arq.install(settings, tracer=recorder)
        worker = worker_of(settings)
        arq.uninstall(settings)
        await worker.async_run()

        assert [context.parent_span_id for context in looking.contexts] == [SENDER.span_id]
        assert [span.outcome for span in recorder.spans] == ["ok"]

    async def test_functions_of_every_kind_are_hooked_when_the_worker_is_made(self, counter: Counter) -> None:
        looking = Looking()
        later = looking.job("later")
        named = func("asyncio.sleep", name="by name")
        settings = counter.settings(looking.job(), func(looking.job(), name="other", timeout=3, max_tries=2))
        with hooked(settings):
            settings["functions"].append(later)
            settings["functions"] += ["asyncio.sleep", named]
            worker = worker_of(settings)

        assert list(worker.functions) == [
            "look",
            "other",
            "later",
            "asyncio.sleep",
            "by name",
        ]
        other = worker.functions["other"]
        assert (other.timeout_s, other.max_tries) == (3, 2)
        assert settings["functions"][2] is later

    async def test_what_arq_refuses_it_refuses_itself(self, counter: Counter) -> None:
        def no_coroutine(ctx: Ctx) -> None: ...

        settings = counter.settings(no_coroutine)
        with hooked(settings), pytest.raises((AssertionError, RuntimeError), match="not a coroutine"):
            worker_of(settings)

    async def test_what_is_no_pool_is_refused(self, counter: Counter) -> None:
        wrong: Any
        for wrong in (None, "redis", object(), ObjectProxy(counter.pool)):
            with pytest.raises(WrongUseError, match=r"^wrap\(\) takes the ArqRedis that create_pool\(\) "):
                arq.wrap(wrong)

    def test_what_are_no_settings_is_refused(self) -> None:
        for hook in (arq.install, arq.uninstall):
            with pytest.raises(WrongUseError, match="the class or dict of a worker's settings, got str"):
                hook("shop.WorkerSettings")  # type: ignore[arg-type]

    def test_what_is_no_ctx_of_a_hooked_worker_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="takes a received ctx of a job of a hooked worker, got dict"):
            arq.context_from({"job_id": "1"})

    async def test_headers_that_are_none_are_refused(self, counter: Counter) -> None:
        pool: Any = arq.wrap(counter.pool)
        with pytest.raises(
            WrongUseError, match="headers must be a mapping of names to values or None, got int"
        ):
            await pool.enqueue_job("look", _headers=7)


class Chronicle(logging.Handler):
    """Notes in which trace arq's worker logs what."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str | None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        context = TraceContext.get()
        self.lines.append((record.getMessage(), context.trace_id if context else None))

    def traces_of(self, sign: str) -> list[str | None]:
        return [trace_id for line, trace_id in self.lines if sign in line]


@pytest.fixture
def chronicle() -> Iterator[Chronicle]:
    chronicle, logger = Chronicle(), logging.getLogger("arq.worker")
    level = logger.level
    logger.addHandler(chronicle)
    logger.setLevel(logging.INFO)
    yield chronicle
    logger.setLevel(level)
    logger.removeHandler(chronicle)


async def run_hooks(settings: dict[str, Any], ctx: Ctx) -> None:
    for name in ("on_job_start", "on_job_end", "after_job_end"):
        await settings[name](ctx)


class TestRunning:
    async def test_the_hooks_of_a_worker_run_in_the_context_of_the_function(self, counter: Counter) -> None:
        """T-05: what a user's hooks log of a job belongs to its trace."""
        looking = Looking()
        await counter.deliver("look", {"traceparent": TRACEPARENT})
        await counter.work(
            counter.settings(
                looking.job(),
                on_job_start=looking.hook,
                on_job_end=looking.hook,
                after_job_end=looking.hook,
            )
        )

        assert len(looking.contexts) == 4
        assert {context.span_id for context in looking.contexts} == {looking.contexts[0].span_id}
        assert looking.contexts[0].parent_span_id == SENDER.span_id

    async def test_what_arq_logs_of_a_job_belongs_to_its_trace(
        self, counter: Counter, chronicle: Chronicle
    ) -> None:
        """T-05: its start, its end and its error."""

        def fail(ctx: Ctx) -> None:
            raise HandlerError

        for name in ("call", "fail"):
            await counter.deliver(name, {"traceparent": TRACEPARENT})
        await counter.work(counter.settings(job_of(print), job_of(fail, "fail")))

        assert chronicle.traces_of("→") == [SENDER.trace_id] * 2
        assert chronicle.traces_of("←") == chronicle.traces_of("failed") == [SENDER.trace_id]
        assert chronicle.traces_of("Starting worker") == [None]

    async def test_hooks_called_one_by_one_put_back_what_was_there(self, counter: Counter) -> None:
        """Law 4, in the one task in which arq calls them."""
        settings = counter.settings()
        ctx: Ctx = {"job_id": "1", "job_try": 1, "enqueue_time": None, "redis": counter.pool}
        with hooked(settings), TraceContext.use(TraceContext.new_root()) as before:
            settings["job_deserializer"](pickle.dumps({"f": "look", "headers": {"traceparent": TRACEPARENT}}))
            assert TraceContext.get() is before
            await settings["on_job_start"](ctx)
            context = TraceContext.get()
            await settings["on_job_end"](ctx)
            assert TraceContext.get() is context
            await settings["after_job_end"](ctx)
            assert TraceContext.get() is before

        assert context is not None
        assert context.trace_id == SENDER.trace_id

    @pytest.mark.parametrize("where", ["on_job_start", "after_job_end"])
    async def test_a_hook_that_fails_leaves_nothing_current(self, counter: Counter, where: str) -> None:
        async def fail(_: Ctx) -> None:
            raise HandlerError

        settings = counter.settings(**{where: fail})
        ctx: Ctx = {"job_id": "1", "job_try": 1, "enqueue_time": None, "redis": counter.pool}
        recorder = MemoryRecorder()
        with hooked(settings, tracer=recorder), TraceContext.use(TraceContext.new_root()) as before:
            with pytest.raises(HandlerError):
                await run_hooks(settings, ctx)
            assert TraceContext.get() is before

        assert [span.outcome for span in recorder.spans] == [
            "error" if where == "on_job_start" else "unknown"
        ]

    async def test_jobs_that_run_at_once_see_each_their_own(self, counter: Counter) -> None:
        """C-06: in tasks of one worker, with pauses in between."""
        seen: dict[str, set[str]] = {}

        async def look(ctx: Ctx) -> None:
            for _ in range(5):
                await asyncio.sleep(0.001)
                context = TraceContext.get()
                assert context is not None
                seen.setdefault(ctx["job_id"], set()).add(context.trace_id)

        pool, sent = arq.wrap(counter.pool), {}
        for _ in range(30):
            with TraceContext.use(TraceContext.new_root()) as context:
                job = await pool.enqueue_job("look")
            assert job is not None
            assert context is not None
            sent[job.job_id] = {context.trace_id}
        await counter.work(counter.settings(job_of(look, "look"), max_jobs=10))

        assert seen == sent

    async def test_what_a_job_enqueues_is_its_child(self, counter: Counter) -> None:
        """T-05: by the pool in its ctx, without wrapping it."""
        looking, recorder = Looking(), MemoryRecorder()

        async def start(ctx: Ctx) -> None:
            looking.look()
            await ctx["redis"].enqueue_job("look", _queue_name=counter.queue)

        await counter.deliver("start", {"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
        await counter.work(counter.settings(job_of(start, "start"), looking.job()), tracer=recorder)

        first, second = looking.contexts
        (send,) = sends(recorder)
        assert first.trace_id == second.trace_id == SENDER.trace_id
        assert (send.parent_span_id, second.parent_span_id) == (first.span_id, send.span_id)
        assert dict(second.baggage) == {"tenant": "acme"}

    async def test_a_pool_that_is_wrapped_already_keeps_its_options(self, counter: Counter) -> None:
        seen: list[Any] = []
        pool = arq.wrap(counter.pool)
        await pool.enqueue_job("call")
        settings = counter.settings(job_of(lambda ctx: seen.append(ctx["redis"])), redis_pool=pool)
        await counter.work(settings)

        assert seen == [pool]

    async def test_a_span_says_what_ran_where_and_how_long_it_waited(self, counter: Counter) -> None:
        recorder = MemoryRecorder()
        await arq.wrap(counter.pool, tracer=recorder).enqueue_job("call")
        await counter.work(counter.settings(job_of(print)), tracer=recorder)

        send, run = recorder.spans
        assert (send.name, send.system, send.destination) == ("send call", "arq", counter.queue)
        assert (run.name, run.system, run.destination) == ("run call", "arq", counter.queue)
        assert run.attempt == 1
        assert run.queue_time_nano is not None
        assert 0 <= run.queue_time_nano < PATIENCE * 1_000_000_000

    async def test_a_queue_is_known_by_its_name_in_the_settings_too(self, counter: Counter) -> None:
        recorder = MemoryRecorder()
        await counter.deliver("call", {})
        settings = counter.settings(
            job_of(print), redis_pool=ArqRedis(counter.pool.connection_pool), queue_name=counter.queue
        )
        await counter.work(settings, tracer=recorder)

        assert [span.destination for span in recorder.spans] == [counter.queue]

    async def test_a_job_tells_the_context_of_its_sender(self, counter: Counter) -> None:
        seen: list[TraceContext | None] = []
        await counter.deliver("call", {"traceparent": TRACEPARENT})
        await counter.deliver("call", {})
        await counter.work(
            counter.settings(job_of(lambda ctx: seen.append(arq.context_from(ctx))), max_jobs=1)
        )

        assert sorted(seen, key=str) == sorted([SENDER, None], key=str)

    async def test_a_function_that_calls_another_is_one_run(self, counter: Counter) -> None:
        looking, recorder = Looking(), MemoryRecorder()
        settings = counter.settings(looking.job())
        workers: list[Worker] = []

        async def call(ctx: Ctx) -> None:
            looking.look()
            function: Any = workers[0].functions["look"]
            await function.coroutine(ctx)

        settings["functions"].append(job_of(call))
        await counter.deliver("call", {"traceparent": TRACEPARENT})
        with hooked(settings, tracer=recorder):
            workers.append(worker_of(settings))
        await workers[0].async_run()

        first, second = looking.contexts
        assert first is second
        assert len(recorder.spans) == 1

    async def test_functions_alone_are_enough(self, counter: Counter) -> None:
        """Hooks may be given when the worker is made, in the place of those in its settings."""
        looking, recorder = Looking(), MemoryRecorder()
        await counter.deliver("look", {"traceparent": TRACEPARENT})
        settings = counter.settings(looking.job())
        with hooked(settings, tracer=recorder):
            worker = Worker(**{**settings, "on_job_start": None, "on_job_end": None, "after_job_end": None})
        await worker.async_run()

        assert [context.parent_span_id for context in looking.contexts] == [SENDER.span_id]
        assert [span.outcome for span in recorder.spans] == ["ok"]

    async def test_hooks_alone_are_enough(self, counter: Counter) -> None:
        """Functions may be given likewise; how they end is not known then."""
        looking, recorder = Looking(), MemoryRecorder()
        await counter.deliver("look", {"traceparent": TRACEPARENT})
        settings = counter.settings()
        with hooked(settings, tracer=recorder):
            worker = Worker(**{**settings, "functions": [looking.job()]})
        await worker.async_run()

        assert [context.parent_span_id for context in looking.contexts] == [SENDER.span_id]
        assert [span.outcome for span in recorder.spans] == ["unknown"]

    async def test_a_function_is_called_and_named_as_ever(self, counter: Counter) -> None:
        """Law 5: arguments, value, name and documentation."""
        got: list[Any] = []

        async def add(ctx: Ctx, first: int, *rest: int, **named: str) -> object:
            """Add it up."""
            got.append((sorted(ctx), first, rest, named))
            return {"sum": first + sum(rest)}

        job = await arq.wrap(counter.pool).enqueue_job("TestRunning.add", 1, 2, 3, a="b", trace="yes")
        settings = counter.settings(func(add, name="TestRunning.add"))
        worker = await counter.work(settings)

        assert job is not None
        assert await job.result(timeout=PATIENCE) == {"sum": 6}
        assert got[0][1:] == (1, (2, 3), {"a": "b", "trace": "yes"})
        coroutine = worker.functions["TestRunning.add"].coroutine
        assert (coroutine.__qualname__, coroutine.__doc__) == (add.__qualname__, "Add it up.")


class TestEnding:
    """Every way in which a job can end."""

    async def run(self, counter: Counter, body: Any, *, keep: bool = True, **keywords: Any) -> list[Span]:
        recorder = MemoryRecorder()
        self.looking = Looking()
        await counter.deliver("call", {"traceparent": TRACEPARENT}, _job_id=uuid4().hex)
        self.worker = await counter.work(
            counter.settings(job_of(body), after_job_end=self.looking.hook, **keywords), tracer=recorder
        )
        return list(recorder.spans)

    async def test_a_job_that_fails_is_an_error(self, counter: Counter) -> None:
        def fail(ctx: Ctx) -> None:
            raise HandlerError

        (span,) = await self.run(counter, fail)
        assert (span.outcome, span.error) == ("error", "contract.receiving.HandlerError")

    async def test_a_job_without_a_result_to_keep_ends_as_well(self, counter: Counter) -> None:
        def fail(ctx: Ctx) -> None:
            raise HandlerError

        (span,) = await self.run(counter, fail, keep_result=0)
        assert (span.outcome, span.error) == ("error", "contract.receiving.HandlerError")

    async def test_attempts_are_siblings_with_their_numbers(self, counter: Counter) -> None:
        """C-10, C-16: under the first sender, however many there are, with the baggage of the start."""
        seen: list[TraceContext] = []

        def retry(ctx: Ctx) -> None:
            context = TraceContext.get()
            assert context is not None
            seen.append(context)
            if ctx["job_try"] < 4:
                TraceContext.set(context.child().with_baggage(Baggage({"left": "over"})))
                raise Retry from HandlerError()

        spans = await self.run(counter, retry)
        assert [span.attempt for span in spans] == [1, 2, 3, 4]
        assert [span.outcome for span in spans] == ["retry", "retry", "retry", "ok"]
        assert spans[0].error == "contract.receiving.HandlerError"
        assert [span.parent_span_id for span in spans] == [SENDER.span_id] * 4
        assert [span.span_id for span in spans] == [context.span_id for context in seen]
        assert len({span.span_id for span in spans}) == 4
        assert [dict(context.baggage) for context in seen] == [{}] * 4

    async def test_a_job_tried_too_often_records_its_attempts_only(self, counter: Counter) -> None:
        def retry(ctx: Ctx) -> None:
            raise Retry

        spans = await self.run(counter, retry, max_tries=2)
        assert [(span.attempt, span.outcome, span.error) for span in spans] == [
            (1, "retry", None),
            (2, "retry", None),
        ]
        assert self.worker.jobs_failed == 1

    async def test_a_retry_that_the_worker_does_not_do_is_an_error(self, counter: Counter) -> None:
        def retry(ctx: Ctx) -> None:
            raise Retry

        (span,) = await self.run(counter, retry, retry_jobs=False)
        assert (span.outcome, span.error) == ("error", "arq.worker.Retry")
        assert self.worker.jobs_failed == 1

    async def test_a_job_that_takes_too_long_is_cancelled(self, counter: Counter) -> None:
        (span,) = await self.run(counter, lambda _: asyncio.sleep(60), job_timeout=0.02)

        assert (span.outcome, span.attempt) == ("cancelled", 1)
        assert [context.span_id for context in self.looking.contexts] == [span.span_id]

    async def test_a_job_that_is_aborted_is_cancelled(self, counter: Counter) -> None:
        async def abort(ctx: Ctx) -> None:
            job = Job(ctx["job_id"], counter.pool, counter.queue)
            await asyncio.gather(job.abort(poll_delay=0.01), asyncio.sleep(60))

        (span,) = await self.run(counter, abort, allow_abort_jobs=True, poll_delay=0.01)
        assert span.outcome == "cancelled"
        assert self.worker.jobs_failed == 1

    async def test_a_job_that_is_stopped_with_its_worker_is_tried_again(self, counter: Counter) -> None:
        """C-03: by another worker, in a sibling of the first attempt."""
        recorder = MemoryRecorder()
        started = asyncio.Event()

        async def wait(ctx: Ctx) -> None:
            started.set()
            if ctx["job_try"] == 1:
                await asyncio.sleep(60)

        await counter.deliver("call", {"traceparent": TRACEPARENT})
        settings = counter.settings(job_of(wait))
        with hooked(settings, tracer=recorder):
            worker = worker_of(settings)
        running = asyncio.create_task(worker.async_run())
        await started.wait()
        worker.handle_sig(signal.SIGTERM)
        await stop(running)
        await asyncio.gather(*worker.tasks.values())
        await counter.work(settings, tracer=recorder)

        assert [(span.attempt, span.outcome) for span in recorder.spans] == [(1, "cancelled"), (2, "ok")]
        assert [span.parent_span_id for span in recorder.spans] == [SENDER.span_id] * 2

    async def test_a_job_that_is_cancelled_before_its_function_starts_ends_too(
        self, counter: Counter
    ) -> None:
        """Nobody knows how: arq says nothing to the hooks."""
        tasks: list[asyncio.Task[Any]] = []

        async def remember(_: Ctx) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(0)

        with contextlib.suppress(asyncio.CancelledError):
            spans = await self.run(counter, print, on_job_start=remember)
            assert [span.outcome for span in spans] == ["unknown"]

    @pytest.mark.parametrize("case", ["unknown function", "expired", "unreadable", "aborted"])
    async def test_a_job_that_never_runs_records_nothing_and_does_not_stop_others(
        self, counter: Counter, case: str
    ) -> None:
        """Law 1: and nothing of it is left for the next job."""
        recorder, looking = MemoryRecorder(), Looking()
        job = await counter.deliver("look", {"traceparent": STALE})
        if case == "unknown function":
            await counter.deliver("nowhere", {"traceparent": STALE})
        elif case == "expired":
            await counter.pool.delete(f"arq:job:{job.job_id}")
            await counter.deliver("look", {"traceparent": STALE})
        elif case == "unreadable":
            await counter.pool.set(f"arq:job:{job.job_id}", b"no pickle")
            await counter.deliver("look", {"traceparent": STALE})
        else:
            await counter.pool.zadd("arq:abort", {job.job_id: int(time.time() * 1000)})
            await counter.deliver("look", {"traceparent": STALE})
        await counter.deliver("look", {"traceparent": TRACEPARENT})
        worker = await counter.work(
            counter.settings(looking.job(), max_jobs=1, allow_abort_jobs=True), tracer=recorder
        )

        assert worker.jobs_failed == 1
        assert len(recorder.spans) == len(looking.contexts) == 2
        assert {context.trace_id for context in looking.contexts} == {STALE[3:35], SENDER.trace_id}


class TestEnqueueing:
    async def test_a_job_that_is_there_already_is_not_sent(self, counter: Counter) -> None:
        recorder = MemoryRecorder()
        pool = arq.wrap(counter.pool, tracer=recorder)
        job_id = uuid4().hex

        with TraceContext.use(TraceContext.new_root()) as context:
            first = await pool.enqueue_job("look", _job_id=job_id)
            second = await pool.enqueue_job("look", _job_id=job_id)
            assert TraceContext.get() is context

        assert first is not None
        assert second is None
        assert [span.outcome for span in recorder.spans] == ["ok", "ignored"]
        assert (await counter.raw())["headers"]["traceparent"].split("-")[2] == recorder.spans[0].span_id

    async def test_a_broker_that_is_down_leaves_everything_as_it_was(self) -> None:
        """C-01: the client's own error, the context of before, a span that ends, and nothing kept."""
        recorder = MemoryRecorder()
        bare = ArqRedis(host="127.0.0.1", port=free_port(), retry=RedisRetry(NoBackoff(), 0))
        pool = arq.wrap(bare, tracer=recorder)
        gc.freeze()
        with TraceContext.use(TraceContext.new_root()) as context:
            for _ in range(5):
                with pytest.raises(RedisConnectionError):
                    await pool.enqueue_job("look")
                assert TraceContext.get() is context
        await bare.aclose(close_connection_pool=True)

        assert [span.outcome for span in recorder.spans] == ["error"] * 5
        assert {span.error for span in recorder.spans} == {"redis.exceptions.ConnectionError"}
        assert kept(Publishing) == []

    async def test_deferred_jobs_carry_the_context_too(self, counter: Counter) -> None:
        looking = Looking()
        with TraceContext.use(full_context()) as context:
            job = await arq.wrap(counter.pool).enqueue_job("look", _defer_by=0.02)
            assert job is not None
            assert await job.status() in {JobStatus.deferred, JobStatus.queued}
        await counter.work(counter.settings(looking.job()))

        assert context is not None
        (seen,) = looking.contexts
        assert (seen.trace_id, seen.parent_span_id) == (context.trace_id, context.span_id)
        assert dict(seen.baggage) == {"tenant": "acme"}

    @pytest.mark.parametrize("serializer", ["pickle", "json"])
    async def test_jobs_and_results_can_be_read_as_ever(self, counter: Counter, serializer: str) -> None:
        is_json = serializer == "json"
        named: dict[str, Any] = {"job_serializer": to_json, "job_deserializer": json.loads} if is_json else {}
        bare = counter.sibling(**named)
        with TraceContext.use(TraceContext.new_root()):
            job = await arq.wrap(bare).enqueue_job("call", 1, b=2)
        assert job is not None
        before = await Job(job.job_id, bare, counter.queue, named.get("job_deserializer")).info()
        (queued,) = await bare.queued_jobs(queue_name=counter.queue)
        await counter.work(counter.settings(func(echo, name="call"), redis_pool=bare, **named))
        info = await job.result_info()

        for definition in (before, queued, info):
            assert definition is not None
            assert (definition.function, list(definition.args), definition.kwargs) == ("call", [1], {"b": 2})
        assert info is not None
        assert (info.success, info.result) == (True, 3)
        assert await job.result(timeout=PATIENCE) == 3
        assert b"traceparent" not in await stored(bare, result_key_prefix + job.job_id)

    async def test_a_worker_that_is_not_hooked_runs_what_is_enqueued_here(self, counter: Counter) -> None:
        """T-05: a mixed fleet, the new sender first."""
        with TraceContext.use(TraceContext.new_root()):
            job = await arq.wrap(counter.pool).enqueue_job("call", 1, b=2)
        await worker_of(counter.settings(func(echo, name="call"))).async_run()

        assert job is not None
        assert await job.result(timeout=PATIENCE) == 3

    async def test_a_hooked_worker_runs_what_a_plain_pool_enqueues(self, counter: Counter) -> None:
        """T-05: a mixed fleet, the new worker first."""
        looking = Looking()
        for _ in range(2):
            await counter.pool.enqueue_job("look")
        await counter.work(counter.settings(looking.job()))

        assert [context.parent_span_id for context in looking.contexts] == [None] * 2
        assert len({context.trace_id for context in looking.contexts}) == 2

    async def test_a_serializer_that_takes_no_more_than_arq_s_fields_gets_these(
        self, counter: Counter, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Law 1 for sending: the job is worth more than its trace."""

        def strict(job: dict[str, Any]) -> bytes:
            assert job.keys() == {"t", "f", "a", "k", "et"}
            return pickle.dumps(job)

        with TraceContext.use(TraceContext.new_root()):
            await arq.wrap(counter.sibling(job_serializer=strict)).enqueue_job("look", 1)

        job = await counter.raw()
        assert (job["f"], job["a"]) == ("look", (1,))
        (record,) = [record for record in caplog.records if record.name == "spakky.tracing"]
        assert record.getMessage().startswith("a job is sent without trace context")

    async def test_bytes_of_the_caller_s_own_headers_arrive(self, counter: Counter) -> None:
        pool: Any = arq.wrap(counter.pool)
        await pool.enqueue_job("look", _headers={"schema": b"\x00\xff"})

        assert (await counter.raw())["headers"]["schema"] == b"\x00\xff"

    async def test_switched_off_a_job_has_no_entry_of_ours(self, counter: Counter) -> None:
        with TraceContext.use(TraceContext.new_root()):
            await arq.wrap(counter.pool, enabled=False).enqueue_job("look")
            switch(on=False)
            try:
                await arq.wrap(counter.pool).enqueue_job("look")
            finally:
                switch(on=True)

        assert ["headers" in await counter.raw() for _ in range(2)] == [False, False]


async def stored(pool: Any, key: str) -> bytes:
    data: bytes = await pool.get(key)
    return data


async def echo(ctx: Ctx, a: int, *, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


class TestHostileEntries:
    """T-03, A-02: what is under our name in a job may be anything, and the job runs."""

    @pytest.mark.parametrize(
        "entry",
        [b"bytes", 5, None, True, [1], [["traceparent", TRACEPARENT]], "x" * 1_000_000, {1: 2}, {}, object],
        ids=lambda entry: type(entry).__name__,
    )
    async def test_an_entry_that_is_no_mapping_of_text_starts_a_new_trace(
        self, counter: Counter, entry: object
    ) -> None:
        looking = Looking()
        await counter.deliver("look", entry)
        worker = await counter.work(counter.settings(looking.job()))

        assert [context.parent_span_id for context in looking.contexts] == [None]
        assert (worker.jobs_complete, worker.jobs_failed) == (1, 0)

    async def test_a_job_may_be_whatever_arq_can_get_its_fields_from(self, counter: Counter) -> None:
        """A deserializer of the user's own need not make a dict of it."""
        looking = Looking()

        class Fields:
            def __init__(self, job: dict[str, Any]) -> None:
                self._job = job

            def __getitem__(self, name: str) -> object:
                return self._job[name]

        await counter.deliver("look", {"traceparent": TRACEPARENT})
        worker = await counter.work(
            counter.settings(looking.job(), job_deserializer=lambda data: Fields(from_pickle(data)))
        )

        assert (worker.jobs_complete, worker.jobs_failed) == (1, 0)
        assert [context.parent_span_id for context in looking.contexts] == [SENDER.span_id]


class TestChoosing:
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    async def test_a_relation_can_be_set_by_name_or_by_a_function(
        self, counter: Counter, relation: Any
    ) -> None:
        """C-08: by the function's name, by the queue's, or for each job."""
        asked: list[str] = []

        def choose(ctx: Ctx) -> Any:
            asked.append(ctx["job_id"])
            return relation

        choices: list[Any] = [{"look": relation, counter.queue: "root"}, {counter.queue: relation}, choose]
        for choice in choices:
            recorder, looking = MemoryRecorder(), Looking()
            await counter.deliver("look", {"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
            await counter.work(counter.settings(looking.job()), tracer=recorder, relation=choice)
            ((span,), (context,)) = recorder.spans, looking.contexts
            assert (context.trace_id == SENDER.trace_id) is (relation == "child")
            assert [link.span_id for link in span.links] == ([SENDER.span_id] if relation == "link" else [])
            assert dict(context.baggage) == ({} if relation == "root" else {"tenant": "acme"})
        assert len(asked) == 1

    async def test_a_function_can_be_switched_off_by_its_name(self, counter: Counter) -> None:
        """Its name is more exact than that of its queue."""
        seen: list[TraceContext | None] = []
        for enabled in ({"call": False}, {counter.queue: False}, {counter.queue: False, "call": True}):
            await counter.deliver("call", {"traceparent": TRACEPARENT})
            await counter.work(
                counter.settings(job_of(lambda _: seen.append(TraceContext.get()))), enabled=enabled
            )
            pool = arq.wrap(counter.pool, enabled=enabled)
            await pool.enqueue_job("call")
            assert ("headers" in await counter.raw()) is (len(enabled) == 2)

        assert [context and context.trace_id for context in seen] == [None, None, SENDER.trace_id]


class TestCronJobs:
    """Jobs that a worker enqueues itself, by a pool of its own or by one that it is given."""

    pools = pytest.mark.parametrize("pool", ["its own", "given", "given and wrapped"])

    async def tick(self, counter: Counter, pool: str, *bodies: Any, **options: Any) -> list[Span]:
        """Let a worker's cron jobs run, where a trace is current when the worker is started."""
        recorder = MemoryRecorder()
        ticks = [
            cron(job_of(body), name=f"tick-{counter.queue}-{number}", run_at_startup=True, max_tries=3)
            for number, body in enumerate(bodies)
        ]
        settings = counter.settings(cron_jobs=ticks, burst=False)
        del settings["functions"]
        if pool == "its own":
            del settings["redis_pool"]
            settings["redis_settings"] = RedisSettings.from_dsn(self.redis_url)
        elif pool == "given and wrapped":
            settings["redis_pool"] = arq.wrap(counter.pool, tracer=recorder)
        with (
            hooked(settings, tracer=recorder, **options),
            TraceContext.use(TraceContext.new_root()) as ambient,
        ):
            worker = worker_of(settings)
            running = asyncio.create_task(worker.async_run())
            await self._work_off(counter, worker, running, len(bodies))
        await stop(running)
        if pool == "its own":
            await worker.pool.aclose(close_connection_pool=True)
        assert ambient is not None
        assert ambient.trace_id not in {span.trace_id for span in recorder.spans}
        assert {tick.next_run for tick in ticks} == {None}
        sends = [span for span in recorder.spans if span.kind == "producer"]
        assert {span.is_scheduled for span in sends} <= {pool == "its own"}  # others send it for the worker
        return list(recorder.spans)

    async def _work_off(
        self, counter: Counter, worker: Worker, running: asyncio.Task[None], count: int
    ) -> None:
        """Wait for the jobs; arq keeps the next attempt of a cron job waiting for a minute, we do not."""
        async with asyncio.timeout(PATIENCE):
            while worker.jobs_complete < count:
                assert not running.done(), running
                await asyncio.sleep(0.005)
                if worker.jobs_retried:
                    for job_id in await counter.job_ids():
                        await counter.pool.delete(f"arq:in-progress:{job_id}")

    @pytest.fixture(autouse=True)
    def _on(self, redis_url: str) -> None:
        self.redis_url = redis_url

    @pools
    async def test_each_time_is_a_trace_of_its_own(self, counter: Counter, pool: str) -> None:
        """C-18: never the one that happens to be current where the worker was started."""
        looking = Looking()

        spans = await self.tick(counter, pool, *[looking.look] * 3)

        assert len({context.trace_id for context in looking.contexts}) == 3
        known = {span.span_id for span in spans}
        assert all(span.parent_span_id is None or span.parent_span_id in known for span in spans)

    @pools
    async def test_attempts_stay_in_the_trace_of_their_time(self, counter: Counter, pool: str) -> None:
        """C-10: as far as there is a trace: a plain pool that is given sends none."""
        looking = Looking()

        def retry(ctx: Ctx) -> None:
            looking.look()
            if ctx["job_try"] == 1:
                raise Retry

        spans = await self.tick(counter, pool, retry)

        first, second = looking.contexts
        assert first.span_id != second.span_id
        assert (first.trace_id == second.trace_id) is (pool != "given")
        assert first.parent_span_id == second.parent_span_id
        assert [span.attempt for span in spans if span.kind == "consumer"] == [1, 2]

    @pools
    async def test_cron_jobs_that_are_switched_off_run(self, counter: Counter, pool: str) -> None:
        seen: list[object] = []

        spans = await self.tick(counter, pool, seen.append, enabled=False)

        assert [span.kind for span in spans if span.kind == "consumer"] == []
        assert len(seen) == 1

    async def test_the_result_of_a_cron_job_has_no_entry_of_ours(self, counter: Counter) -> None:
        tick = cron(job_of(lambda _: 7), name=f"tick-{counter.queue}", run_at_startup=True, keep_result=60)
        serialized: list[dict[str, Any]] = []

        def serialize(job: dict[str, Any]) -> bytes:
            serialized.append(job)
            return pickle.dumps(job)

        settings = counter.settings(cron_jobs=[tick], burst=False, job_serializer=serialize)
        settings["redis_settings"] = RedisSettings.from_dsn(self.redis_url)
        del settings["redis_pool"]
        with hooked(settings):
            worker = worker_of(settings)
        running = asyncio.create_task(worker.async_run())
        await self._work_off(counter, worker, running, 1)
        await stop(running)
        await worker.pool.aclose(close_connection_pool=True)

        enqueued, result = serialized
        assert list(enqueued["headers"]) == ["traceparent"]
        assert (result["r"], "headers" in result) == (7, False)

    async def test_a_cron_job_that_somebody_enqueues_belongs_to_their_trace(self, counter: Counter) -> None:
        looking = Looking()
        not_now = int(time.time() + 30) % 60
        tick = cron(looking.job(), name=f"tick-{counter.queue}", second=not_now)
        with TraceContext.use(TraceContext.new_root()) as context:
            await arq.wrap(counter.pool).enqueue_job(tick.name)
        await counter.work(counter.settings(cron_jobs=[tick]))

        assert context is not None
        assert [seen.parent_span_id for seen in looking.contexts] == [context.span_id]


class Kiosk:
    """Workers in processes of their own, and a pool in this process that enqueues for them."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.queue = f"kiosk-{uuid4().hex}"
        self.record = folder / "spans.jsonl"
        self._notes = folder / "notes.jsonl"
        self._redis_url = redis_url
        self._workers = 0
        self._guarded = Guarded()

    @contextlib.contextmanager
    def open(self) -> Iterator[Kiosk]:
        with self._guarded:
            self.start_worker()
            yield self

    def start_worker(self) -> None:
        self._workers += 1
        command = [sys.executable, "-m", "arq", "kiosk.WorkerSettings"]
        self._guarded.start(f"worker-{self._workers}", command, self._environment())

    async def send(self, function: str, *args: object, job_id: str | None = None) -> tuple[str, TraceContext]:
        """Enqueue a job in a trace of its own; return its id and the trace."""
        recorder = JsonLinesRecorder(self.record, process="sender")
        settings = RedisSettings.from_dsn(self._redis_url)
        bare = await create_pool(settings, default_queue_name=self.queue)
        with TraceContext.use(full_context()) as context:
            job = await arq.wrap(bare, tracer=recorder).enqueue_job(function, *args, _job_id=job_id)
        await bare.aclose(close_connection_pool=True)
        recorder.close()
        assert job is not None
        assert context is not None
        return job.job_id, context

    async def notes(self, job_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what a job has noted in each attempt."""
        return await self._wait(
            lambda: [note for note in read_notes(self._notes) if note["id"] == job_id], count
        )

    async def ticks(self, count: int) -> list[dict[str, Any]]:
        """Return what the cron job has noted."""
        return await self._wait(
            lambda: [note for note in read_notes(self._notes) if "tick" in note["id"]], count
        )

    async def spans(self, trace_id: str, count: int) -> list[Span]:
        """Return the recorded spans of a trace, of all processes."""
        return await self._wait(lambda: [s for s in read_spans(self.record) if s.trace_id == trace_id], count)

    async def _wait(self, look: Callable[[], list[Any]], count: int) -> list[Any]:
        deadline = time.monotonic() + 2 * PATIENCE
        worker = f"worker-{self._workers}"
        while len(found := look()) < count:
            assert self._guarded.excuse(worker) is None, self._guarded.log(worker)
            assert time.monotonic() < deadline, self._guarded.log(worker)
            await asyncio.sleep(0.02)
        return found

    def _environment(self) -> dict[str, str]:
        apps = Path(__file__).parent / "arq_apps"
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(apps), os.environ.get("PYTHONPATH", "")]),
            "KIOSK_REDIS": self._redis_url,
            "KIOSK_QUEUE": self.queue,
            "KIOSK_NOTES": str(self._notes),
            "SPAKKY_TRACING_RECORD": str(self.record),
        }


@pytest.fixture(scope="module")
def kiosk(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kiosk]:
    with Kiosk(redis_url, tmp_path_factory.mktemp("kiosk")).open() as kiosk:
        yield kiosk


class TestWorkerProcess:
    async def test_a_job_runs_in_the_trace_of_its_sender(self, kiosk: Kiosk) -> None:
        """T-05: in another process, with what it enqueues in turn."""
        second_id = uuid4().hex
        first_id, context = await kiosk.send("starts_another", second_id)

        (first,), (second,) = await kiosk.notes(first_id), await kiosk.notes(second_id)
        spans = await kiosk.spans(context.trace_id, 4)
        parents = {span.span_id: span.parent_span_id for span in spans}
        chain = [second["span_id"]]
        while (parent := parents.get(chain[-1])) is not None:
            chain.append(parent)

        assert first["trace_id"] == second["trace_id"] == context.trace_id
        assert first["baggage"] == second["baggage"] == {"tenant": "acme"}
        assert first["span_id"] in chain
        assert (len(chain), chain[-1]) == (5, context.span_id)
        assert first["pid"] != os.getpid()

    async def test_attempts_are_siblings(self, kiosk: Kiosk) -> None:
        """C-10: under the span of the sending, with their numbers."""
        job_id, context = await kiosk.send("fails_twice")

        notes = await kiosk.notes(job_id, 3)
        spans = await kiosk.spans(context.trace_id, 4)

        assert [note["attempt"] for note in notes] == [1, 2, 3]
        assert len({note["parent_span_id"] for note in notes}) == 1
        assert [(span.attempt, span.outcome) for span in spans if span.kind == "consumer"] == [
            (1, "retry"),
            (2, "retry"),
            (3, "ok"),
        ]

    async def test_a_job_that_fails_is_recorded(self, kiosk: Kiosk) -> None:
        _, context = await kiosk.send("fails")

        spans = await kiosk.spans(context.trace_id, 2)

        assert [(span.outcome, span.error) for span in spans] == [("ok", None), ("error", "kiosk.ShelfError")]

    async def test_many_jobs_at_once_do_not_mix(self, kiosk: Kiosk) -> None:
        sent = [await kiosk.send("look", 0.01) for _ in range(10)]

        for job_id, context in sent:
            (note,) = await kiosk.notes(job_id)
            assert note["trace_id"] == context.trace_id

    async def test_each_tick_is_a_trace_of_its_own(self, kiosk: Kiosk) -> None:
        """C-18: whatever runs in between."""
        ticks = await kiosk.ticks(2)

        assert len({tick["trace_id"] for tick in ticks}) == len(ticks)

    async def test_a_worker_that_is_stopped_leaves_its_job_to_the_next(self, kiosk: Kiosk) -> None:
        """C-03, C-05: no span is lost, and the attempts are siblings, whoever makes the second one."""
        job_id, context = await kiosk.send("waits_when_new")
        (note,) = await kiosk.notes(job_id)
        os.kill(note["pid"], signal.SIGTERM)
        kiosk.start_worker()

        first, second = await kiosk.notes(job_id, 2)
        spans = await kiosk.spans(context.trace_id, 3)

        assert first["parent_span_id"] == second["parent_span_id"]
        assert [(span.attempt, span.outcome) for span in spans if span.kind == "consumer"] == [
            (1, "cancelled"),
            (2, "ok"),
        ]
