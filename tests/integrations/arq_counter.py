"""A queue of arq on a real Redis, with workers in this process and the bare client beside them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from arq import ArqRedis, Worker, create_pool
from arq.connections import RedisSettings
from arq.constants import job_key_prefix

from spakky.tracing.integrations import arq

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from arq.jobs import Job

PATIENCE: Final = 15

Ctx = dict[str, Any]


def to_json(job: dict[str, Any]) -> bytes:
    return json.dumps(job, default=repr).encode()


def from_json(data: bytes) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(data)
    return job


def from_pickle(data: bytes) -> dict[str, Any]:
    job: dict[str, Any] = pickle.loads(data)  # noqa: S301 - what arq and these tests have pickled
    return job


class Counter:
    """A queue of its own.

    Attributes:
        pool: The bare client, whose default queue it is.
        queue: The queue's name.
    """

    def __init__(self, pool: ArqRedis) -> None:
        self.pool = pool
        self.queue = pool.default_queue_name

    def sibling(self, **options: Any) -> ArqRedis:
        """Return another bare client of the same queue."""
        return ArqRedis(self.pool.connection_pool, default_queue_name=self.queue, **options)

    async def deliver(self, function: str, headers: object, *args: object, **options: Any) -> Job:
        """Enqueue a job with *headers* by the bare client."""
        pool = self.sibling(job_serializer=lambda job: pickle.dumps({**job, "headers": headers}))
        job = await pool.enqueue_job(function, *args, **options)
        assert job is not None
        return job

    async def raw(self) -> dict[str, Any]:
        """Return the next job as it is on the wire, and take it out of the queue."""
        job_id, *_ = await self.job_ids()
        await self.pool.zrem(self.queue, job_id)
        data = await self.pool.getdel(job_key_prefix + job_id)
        assert isinstance(data, bytes)
        return from_json(data) if data.startswith(b"{") else from_pickle(data)

    async def job_ids(self) -> list[str]:
        """Return the ids of the jobs in the queue, the one that is due next first."""
        pool: Any = self.pool  # redis-py has one type for the answers of all versions of the protocol
        return [job_id.decode() for job_id in await pool.zrange(self.queue, 0, -1)]

    def settings(self, *functions: Any, **keywords: Any) -> dict[str, Any]:
        """Return settings of a worker that ends when the queue is empty."""
        return {
            "functions": list(functions),
            "queue_name": self.queue,
            "redis_pool": self.pool,
            "burst": True,
            "handle_signals": False,
            "poll_delay": 0.005,
            **keywords,
        }

    async def work(self, settings: dict[str, Any] | type[Any], **options: Any) -> Worker:
        """Let a hooked worker do all that is in the queue."""
        with hooked(settings, **options):
            worker = worker_of(settings)
        await asyncio.wait_for(worker.async_run(), PATIENCE)
        return worker


async def stop(running: asyncio.Task[None]) -> None:
    """End a worker: a cancellation now and then gets lost in redis-py (8.1), with and without a hook."""
    while not running.done():
        running.cancel()
        await asyncio.wait([running], timeout=0.1)


def worker_of(settings: dict[str, Any] | type[Any]) -> Worker:
    """Return a worker as arq makes it of settings of either kind."""
    return Worker(**(settings if isinstance(settings, dict) else given_in(settings)))


def given_in(settings: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if not name.startswith("__")}


@contextlib.contextmanager
def hooked(settings: dict[str, Any] | type[Any], **options: Any) -> Any:
    arq.install(settings, **options)
    try:
        yield
    finally:
        arq.uninstall(settings)


@contextlib.asynccontextmanager
async def open_counter(redis_url: str) -> AsyncIterator[Counter]:
    queue = f"counter-{uuid4().hex}"
    pool = await create_pool(RedisSettings.from_dsn(redis_url), default_queue_name=queue)
    counter = Counter(pool)
    try:
        yield counter
    finally:
        await pool.delete(queue, f"{queue}:health-check")
        await pool.aclose(close_connection_pool=True)


def job_of(body: Callable[[Ctx], object] | Callable[[Ctx], Awaitable[object]], name: str = "call") -> Any:
    """Return a function of arq that runs *body*."""

    async def call(ctx: Ctx) -> object:
        result = body(ctx)
        return await result if asyncio.iscoroutine(result) else result

    call.__name__ = call.__qualname__ = name
    return call
