"""Watches several places at once, until it is told to end."""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from spakky.tracing.cli.tail.watched import ILagging

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spakky.tracing.cli.tail.screen import IScreen
    from spakky.tracing.cli.tail.watched import IWatcher, Watched

__all__ = ["Watching"]

_TICK_SECONDS: Final = 0.1
_TICKS_OF_A_SECOND: Final = 10
_MANY: Final = 5_000
_GROWING: Final = 3


class Watching:
    """Hands every message that any of the watchers sees to *take*, in one thread, until it ends.

    It ends by Ctrl-C (SIGINT), by SIGTERM, when *take* returns `False`, after some seconds, or when a watcher
    can no longer watch.
    """

    def __init__(
        self,
        watchers: Sequence[IWatcher],
        take: Callable[[Watched], bool],
        screen: IScreen,
        since: str,
        seconds: float | None = None,
    ) -> None:
        """Prepare, and do nothing yet.

        Args:
            watchers: What is watched.
            take: What is called with each message; it returns whether more of them are wanted.
            screen: What is refreshed meanwhile, and says what is watched.
            since: From when on, in words.
            seconds: How long is watched; `None` for ever.
        """
        self._watchers = watchers
        self._take = take
        self._screen = screen
        self._since = since
        self._seconds = seconds
        self._ended = asyncio.Event()
        self._not_ready = len(watchers)

    async def run(self) -> None:
        """Watch until it ends, and leave nothing at the brokers.

        Raises:
            Refusal: A watcher cannot watch, or cannot any longer.
            BrokenPipeError: Nobody reads the output any longer.
        """
        self._end_by_signals()
        works = [self._refresh(), *map(self._follow, self._watchers)]
        tasks = [asyncio.ensure_future(work) for work in works]
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task.done()]
        for task in (ended, *tasks):
            task.cancel()
        await asyncio.gather(ended, *tasks, return_exceptions=True)
        for task in failed:
            task.result()

    def _end_by_signals(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # on Windows Ctrl-C raises KeyboardInterrupt
            loop.add_signal_handler(signal.SIGINT, self._ended.set)
            loop.add_signal_handler(signal.SIGTERM, self._ended.set)

    async def _follow(self, watcher: IWatcher) -> None:
        async with aclosing(watcher.messages()) as lists:
            is_ready = False
            async for messages in lists:
                if not is_ready:
                    is_ready = True
                    self._count_as_ready()
                for message in messages:
                    if self._ended.is_set() or not self._take(message):
                        self._ended.set()
                        return
                await asyncio.sleep(0)  # lists that are there already would keep everybody else waiting

    def _count_as_ready(self) -> None:
        self._not_ready -= 1
        if self._not_ready:
            return
        for watcher in self._watchers:
            self._screen.note(f"Watching {watcher.watches} {self._since}. Ctrl-C ends.")
        if self._seconds is not None:
            asyncio.get_running_loop().call_later(self._seconds, self._ended.set)

    async def _refresh(self) -> None:
        lags = [_Lag(watcher) for watcher in self._watchers if isinstance(watcher, ILagging)]
        tick = 0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._screen.refresh()
            tick += 1
            if tick % _TICKS_OF_A_SECOND == 0:
                for lag in lags:
                    lag.tell(self._screen)


class _Lag:
    """Says once that a watcher falls behind, and once that it is up to date again."""

    def __init__(self, watcher: ILagging) -> None:
        self._watcher = watcher
        self._behind = 0
        self._grown = 0
        self._is_told = False

    def tell(self, screen: IScreen) -> None:
        """Look once a second, and speak if many messages wait, and more each time."""
        behind = self._watcher.behind
        self._grown = self._grown + 1 if behind > max(self._behind, _MANY) else 0
        self._behind = behind
        watches = self._watcher.watches
        if self._grown >= _GROWING and not self._is_told:
            self._is_told = True
            screen.note(f"Falling behind: {behind} messages wait at {watches}.")
        elif self._is_told and behind == 0:
            self._is_told = False
            screen.note(f"Up to date again at {watches}.")
