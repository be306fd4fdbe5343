"""The command `tail`."""

from __future__ import annotations

import asyncio
from importlib import import_module
from math import isnan
from typing import TYPE_CHECKING, Any, Final

import click

from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.tail.address import without_credentials
from spakky.tracing.cli.tail.screen import JsonLines, Lines
from spakky.tracing.cli.tail.totals import Totals
from spakky.tracing.cli.tail.verdict import VERDICTS, Judge
from spakky.tracing.cli.tail.watching import Watching
from spakky.tracing.error import MissingExtraError

if TYPE_CHECKING:
    from spakky.tracing.cli.tail.screen import IScreen
    from spakky.tracing.cli.tail.verdict import Verdict
    from spakky.tracing.cli.tail.watched import IWatcher, Watched

__all__ = ["tail"]

_MODULES: Final = {
    "kafka": "kafka",
    "kafka+ssl": "kafka",
    "amqp": "amqp",
    "amqps": "amqp",
    "redis": "redis",
    "rediss": "redis",
}
_EXAMPLES: Final = (
    "kafka://localhost:9092/TOPIC, amqp://localhost/EXCHANGE-or-QUEUE or redis://localhost/QUEUE"
)
_LONGEST_GROUP: Final = 200


class _Seconds(click.FloatRange):
    """A time, 0 or more; it may be infinite, but has to be a number."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - as click has it
        seconds: float = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is not a number.", param, ctx) if isnan(seconds) else seconds


@click.command(short_help="Watch running traffic: which service loses the trace?")
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Watch this routing key only (amqp://); may be repeated.",
)
@click.option(
    "--from-beginning",
    is_flag=True,
    help="See the messages that are there already, too (not of exchanges, which keep none).",
)
@click.option("--by", "header", metavar="HEADER", help="Count by what this header says, not by producer.")
@click.option(
    "--stale-after",
    type=_Seconds(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long one span may go on sending before its context is called stale.",
)
@click.option("--problems", is_flag=True, help="Show only messages that are not valid; all are counted.")
@click.option("--totals", "totals_only", is_flag=True, help="Show no messages, only the totals.")
@click.option(
    "--json", "as_json", is_flag=True, help="Write a JSON object for each message, the totals as the last."
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--seconds", type=_Seconds(min=0), metavar="SECONDS", help="End after so many seconds.")
def tail(urls: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - as click has read them
    """Watch running traffic: is the trace context there, message by message?

    \b
    URL is one of
      kafka://HOST[:PORT]/TOPIC
      amqp://HOST/EXCHANGE-or-QUEUE
      redis://HOST/QUEUE

    Nothing is taken from anybody, and nothing is left at the broker. Each message is valid, missing (no
    context), stale (another message's context), duplicated (several contexts) or malformed. Ctrl-C ends and
    shows the totals.
    """  # noqa: D301 - click keeps the lines below a backspace, not below a backslash
    watchers = [_watcher(url, options["keys"], from_beginning=options["from_beginning"]) for url in urls]
    session = _Session(options)
    asyncio.run(session.watch(watchers))


class _Session:
    """Judges, counts and shows each message, as the options of the command have it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._header: str | None = options["header"]
        self._left: int | None = options["count"]
        self._judge = Judge(stale_after=options["stale_after"])
        self._totals = Totals()
        self._screen = self._chosen_screen()

    async def watch(self, watchers: list[IWatcher]) -> None:
        since = "from the beginning" if self._options["from_beginning"] else "from now on"
        watching = Watching(watchers, self._take, self._screen, since, self._options["seconds"])
        try:
            await watching.run()
        except Refusal:
            if self._totals.messages:
                self._screen.end()
            raise
        self._screen.end()

    def _take(self, message: Watched) -> bool:
        judgement = self._judge.judge(message)
        group = self._group(message)
        self._totals.count(group, judgement.verdict)
        self._screen.show(message, group, judgement)
        if self._left is None:
            return True
        self._left -= 1
        return self._left > 0

    def _group(self, message: Watched) -> str:
        if self._header is None:
            return message.producer[:_LONGEST_GROUP]
        values = message.carrier.get(message.headers, self._header)
        said = values[-1].strip() if values else ""
        return said[:_LONGEST_GROUP] or f"(no {self._header})"

    def _chosen_screen(self) -> IScreen:
        shown = _shown(self._options)
        if self._options["as_json"]:
            return JsonLines(self._totals, shown)
        return Lines(self._totals, self._header or "producer", shown)


def _shown(options: dict[str, Any]) -> frozenset[Verdict]:
    """Return which messages are shown."""
    if options["totals_only"]:
        return frozenset()
    return frozenset(VERDICTS) - {"valid"} if options["problems"] else frozenset(VERDICTS)


def _watcher(url: str, keys: tuple[str, ...], *, from_beginning: bool) -> IWatcher:
    """Return what watches *url*; its module loads the client library.

    Raises:
        Refusal: The URL is wrong, or the client library is not installed.
    """
    scheme, separator, _ = url.partition("://")
    name = _MODULES.get(scheme.lower()) if separator else None
    if name is None:
        sentence = f"{without_credentials(url)!r} cannot be watched: give a URL such as {_EXAMPLES}."
        raise Refusal(sentence)
    if keys and name != "amqp":
        sentence = f"--key is for amqp://, and {without_credentials(url)!r} has no routing keys."
        raise Refusal(sentence)
    given = {"keys": keys} if name == "amqp" else {}
    try:
        module = import_module(f"spakky.tracing.cli.tail.{name}")
    except MissingExtraError as error:
        raise Refusal(error.message) from error
    watcher: IWatcher = module.watcher(url, from_beginning=from_beginning, **given)
    return watcher
