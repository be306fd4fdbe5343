"""The search for brokers: which source is asked when, and what is kept of the answers."""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Protocol, Self

from brokers import containers, embedded, environment, processes
from brokers.outcome import Broker, Found, Missing, Outcome, describe
from brokers.run import Report, Run
from brokers.unavailable import Failed, Unanswered, Unavailable

SOURCES_VARIABLE = "BROKERS_SOURCE"


class Source(Protocol):
    """A place that brokers come from: a module with these two functions."""

    def prepare(self, broker: Broker, run: Run) -> None:
        """Make the machine ready to give this broker, or raise `Unavailable`."""

    def find(self, broker: Broker, run: Run) -> Found:
        """Give this broker, ready for clients, or raise `Unavailable`."""
        ...


SOURCES: dict[str, Source] = {
    "environment": environment,
    "docker": containers,
    "process": processes,
    "embedded": embedded,
}


class Brokers:
    """The brokers of one run: each is looked for once, and what was started ends with the run.

    Args:
        report: Takes each line about what is being done; prints to standard error unless told otherwise.
    """

    def __init__(self, report: Report | None = None) -> None:
        _allowed_sources()
        self._run = Run(report or print_to_stderr)
        self._threads = ThreadPoolExecutor(max_workers=len(Broker), thread_name_prefix="brokers")
        self._searches: dict[Broker, Future[Outcome]] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *brokers: Broker) -> None:
        """Begin to look for several brokers at once, without waiting for any."""
        for broker in brokers:
            self._search_for(broker)

    def find(self, broker: Broker) -> Outcome:
        """Wait for a broker; the answer stays the same for the rest of the run."""
        return self._search_for(broker).result()

    def stop(self) -> None:
        """End everything that was started here."""
        self._run.stopping.set()
        self._threads.shutdown(cancel_futures=True)
        self._run.started.close()

    def _search_for(self, broker: Broker) -> Future[Outcome]:
        with self._lock:
            if broker not in self._searches:
                self._searches[broker] = self._threads.submit(search, broker, self._run)
            return self._searches[broker]


def sources_of(broker: Broker) -> list[Source]:
    """Give the sources to ask for a broker, in their order."""
    can_be_embedded = broker is Broker.KAFKA
    return [SOURCES[name] for name in _allowed_sources() if name != "embedded" or can_be_embedded]


def search(broker: Broker, run: Run) -> Outcome:
    """Ask one source after the other for a broker."""
    refusals: list[Unavailable] = []
    began = time.monotonic()
    for source in sources_of(broker):
        try:
            found = _say_why_embedded(source.find(broker, run), refusals)
        except Unavailable as refusal:
            refusals.append(refusal)
            if isinstance(refusal, Failed):
                run.report(f"{broker}: {refusal.reason}")
            if isinstance(refusal, Unanswered):
                break
        else:
            run.report(f"{broker}: ready after {time.monotonic() - began:.1f} s: {describe(found)}")
            return found
    return Missing(broker, explain(broker, refusals))


def explain(broker: Broker, refusals: Sequence[Unavailable]) -> str:
    """Put into one sentence why a broker is missing and how to get it."""
    refusals = [*refusals, *_restriction()]
    remedies = _listed([refusal.remedy for refusal in refusals if refusal.remedy], "or")
    remedy = f"; to have it, {remedies}" if remedies else ""
    return f"{broker.label} is left out, because {_reasons(refusals)}{remedy}."


def _allowed_sources() -> list[str]:
    named = [name.strip() for name in os.environ.get(SOURCES_VARIABLE, "").split(",") if name.strip()]
    if unknown := set(named) - set(SOURCES):
        message = f"{SOURCES_VARIABLE} may name {_listed(list(SOURCES), 'and')}, but not {', '.join(unknown)}"
        raise ValueError(message)
    return [name for name in SOURCES if not named or name in named]


def _restriction() -> list[Unavailable]:
    allowed = _allowed_sources()
    if allowed == list(SOURCES):
        return []
    return [
        Unavailable(f"{SOURCES_VARIABLE} allows only {_listed(allowed, 'and')}", f"unset {SOURCES_VARIABLE}")
    ]


def _say_why_embedded(found: Found, refusals: Sequence[Unavailable]) -> Found:
    if not found.embedded or not refusals:
        return found
    return replace(found, how=f"{found.how}, because {_reasons(refusals)}")


def _reasons(refusals: Sequence[Unavailable]) -> str:
    return _listed([refusal.reason for refusal in refusals], "and")


def _listed(parts: Sequence[str], conjunction: str) -> str:
    *first, last = parts or [""]
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def print_to_stderr(line: str) -> None:
    """Print a line for the person at the terminal."""
    # One write for each line keeps the lines of several threads apart.
    print(f"{line}\n", end="", file=sys.stderr, flush=True)
