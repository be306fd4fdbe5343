"""An application with Celery tasks: `main` calls them and says what they return.

Tasks are named after their module, so it has to be imported, here as in a worker.
"""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false

import asyncio
import os

from celery import Celery
from saying import described, say

import spakky.plugins.celery
import spakky.task
import spakky.tracing
from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.task import TaskHandler, task
from spakky.tracing import TraceContext


@TaskHandler()
class Packing:
    """What a worker does."""

    @task
    def pack(self) -> dict[str, str | None]:
        return described(TraceContext.get())

    @task
    async def wrap(self) -> dict[str, str | None]:
        return described(TraceContext.get())


shop = SpakkyApplication(ApplicationContext())
shop.load_plugins(include={each.PLUGIN_NAME for each in (spakky.tracing, spakky.task, spakky.plugins.celery)})
shop.add(Packing).start()
app = shop.container.get(Celery)
app.conf.task_default_queue = os.environ["SHOP_QUEUE"]


def main() -> None:
    """Call each task in a trace, and say which one that was and what the task saw."""
    packing = shop.container.get(Packing)
    for mode in ("sync", "async"):
        with TraceContext.use(TraceContext.new_root()) as sent:
            result = packing.pack() if mode == "sync" else asyncio.run(packing.wrap())
        say(mode=mode, sent=described(sent), seen=result.get())
    shop.stop()
