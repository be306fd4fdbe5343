"""What `spakky-tracing tail` does with any broker: a contract that the tests of each broker inherit.

A watcher yields a first list, which may be empty, as soon as it watches: from then on no message is missed.
The command then says `Watching ...` on standard error, and these tests send.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest

from cli.running import Ended, piped
from spakky.tracing.context import TraceContext

__all__ = ["Station", "Tail", "TailContract", "tail", "traceparents"]

_PATIENCE: Final = 60

Headers = Mapping[str, object]


class Station(ABC):
    """A fresh topic, exchange or queue, with ordinary clients at both ends."""

    @property
    @abstractmethod
    def url(self) -> str:
        """What `tail` is given."""

    @abstractmethod
    def send(self, *messages: Headers) -> None:
        """Send a message with each of these headers; return when the broker has them, in their order."""

    @abstractmethod
    def send_twice(self, name: str, *values: str) -> None:
        """Send one message that has several *values* of one header, as this broker's headers allow it."""

    @abstractmethod
    def receive(self, count: int) -> list[dict[str, str]]:
        """Return the headers of the next *count* messages that the ordinary consumer gets, as text."""

    @abstractmethod
    def leftovers(self) -> object:
        """Return what there is at the broker besides messages: groups, queues, bindings; to be compared."""


class Tail:
    """A running `spakky-tracing tail`, its output into pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._errors = b""

    @property
    def process_id(self) -> int:
        return self._process.pid

    def wait_until_watching(self) -> None:
        """Wait until it says that it watches; from then on it sees every message."""
        assert self._process.stderr is not None
        while b"Watching" not in self._errors:
            line = self._process.stderr.readline()
            self._errors += line
            assert line, f"it ended before it watched: {self._errors.decode()}"

    def read_line(self) -> str:
        """Return the next line of its output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    def close_output(self) -> None:
        """Stop reading, as `head` does."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.stdout = None

    def end(self, by: signal.Signals = signal.SIGINT) -> Ended:
        """Send it a signal, and return what it left behind."""
        self._process.send_signal(by)
        return self.ended()

    def ended(self) -> Ended:
        """Wait until it ends by itself."""
        output, errors = self._process.communicate(timeout=_PATIENCE)
        return Ended(self._process.returncode, (output or b"").decode(), (self._errors + errors).decode())

    def objects(self) -> list[dict[str, Any]]:
        """Wait until it ends by itself, and return what it has written with `--json`."""
        ended = self.ended()
        assert ended.code == 0, ended.errors
        return [json.loads(line) for line in ended.output.splitlines()]

    def messages(self) -> list[dict[str, Any]]:
        """Wait until it ends by itself, and return the messages that it has written with `--json`."""
        return self.objects()[:-1]


@contextmanager
def tail(*arguments: str, until_watching: bool = True, **variables: str) -> Iterator[Tail]:
    """Run `spakky-tracing tail` with *arguments*, and wait until it watches."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spakky.tracing", "tail", *arguments],
        bufsize=0,  # so that nothing is read ahead of `communicate`
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            running = Tail(process)
            if until_watching:
                running.wait_until_watching()
            yield running
        finally:
            process.kill()


def traceparents(count: int) -> list[str]:
    """Return traceparents of traces of their own."""
    return [TraceContext.new_root().to_traceparent() for _ in range(count)]


class TailContract(ABC):
    """What holds for each broker."""

    @pytest.fixture
    @abstractmethod
    def station(self) -> Iterator[Station]:
        """Yield a topic, exchange or queue that no other test uses."""

    def judged(self, station: Station, *messages: Headers) -> list[tuple[str, str | None]]:
        """Return verdict and trace id of *messages*."""
        with tail("--json", f"--count={len(messages)}", station.url) as running:
            station.send(*messages)
            return [(each["verdict"], each["trace_id"]) for each in running.messages()]

    def test_each_message_gets_its_verdict(self, station: Station) -> None:
        (valid,) = traceparents(1)

        found = self.judged(
            station,
            {"traceparent": valid},
            {"other": "header"},
            {"traceparent": valid[:-1]},
            {"traceparent": "00-" + "0" * 32 + valid[35:]},
            {"tracestate": "vendor=left"},
            {"TraceParent": valid, "tracestate": "vendor=1"},
        )

        assert found == [
            ("valid", valid[3:35]),
            ("missing", None),
            ("malformed", None),
            ("malformed", None),
            ("stale", None),
            ("valid", valid[3:35]),
        ]

    def test_two_traceparents_are_a_duplicate(self, station: Station) -> None:
        with tail("--json", "--count=1", station.url) as running:
            station.send_twice("traceparent", *traceparents(2))
            (message,) = running.messages()

        assert message["verdict"] == "duplicated"

    def test_a_fault_of_tracestate_or_baggage_is_a_note(self, station: Station) -> None:
        (valid,) = traceparents(1)

        with tail("--json", "--count=1", station.url) as running:
            station.send({"traceparent": valid, "tracestate": "=", "baggage": "no equals sign"})
            (message,) = running.messages()

        assert message["verdict"] == "valid"
        assert [note.partition(":")[0] for note in message["notes"]] == ["tracestate", "baggage"]

    def test_one_span_may_send_several_messages(self, station: Station) -> None:
        (valid,) = traceparents(1)

        found = self.judged(station, *[{"traceparent": valid}] * 5)

        assert found == [("valid", valid[3:35])] * 5

    def test_the_last_object_has_the_totals(self, station: Station) -> None:
        with tail("--json", "--count=3", station.url) as running:
            station.send({"traceparent": traceparents(1)[0]}, {}, {})
            totals = running.objects()[-1]["totals"]

        assert (totals["messages"], totals["valid"], totals["missing"]) == (3, 1, 2)
        assert sum(group["messages"] for group in totals["groups"]) == 3

    def test_a_header_may_tell_who_is_counted(self, station: Station) -> None:
        (valid,) = traceparents(1)

        with tail("--json", "--by=service", "--count=3", station.url) as running:
            station.send(
                {"service": "shop", "traceparent": valid}, {"service": "billing"}, {"service": "shop"}
            )
            groups = running.objects()[-1]["totals"]["groups"]

        assert [(group["producer"], group["messages"], group["valid"]) for group in groups] == [
            ("billing", 1, 0),
            ("shop", 2, 1),
        ]

    def test_lines_for_people_have_no_escape_sequence_in_a_pipe(self, station: Station) -> None:
        (valid,) = traceparents(1)

        with tail("--count=2", station.url) as running:
            station.send({"traceparent": valid}, {"traceparent": "\x1b[31mred"})
            ended = running.ended()

        assert ended.code == 0
        assert "\x1b" not in ended.output + ended.errors
        assert valid[3:35] in ended.output.splitlines()[0]
        assert "malformed" in ended.output.splitlines()[1]

    @pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_with_totals(self, station: Station, by: signal.Signals) -> None:
        with tail(station.url) as running:
            station.send({"traceparent": traceparents(1)[0]})
            line = running.read_line()
            ended = running.end(by)

        assert "valid" in line
        assert ended.code == 0
        assert "messages" in ended.output
        assert "Traceback" not in ended.errors

    def test_seconds_end_it_with_totals(self, station: Station) -> None:
        ended = piped("tail", "--seconds=0.5", station.url)

        assert (ended.code, "Traceback" in ended.errors) == (0, False)

    def test_a_reader_that_goes_away_ends_it_quietly(self, station: Station) -> None:
        with tail("--json", station.url) as running:
            station.send({})
            running.read_line()
            running.close_output()
            station.send({})
            ended = running.ended()

        assert ended.errors.count("\n") == 1  # that it watches

    def test_consumers_get_every_message(self, station: Station) -> None:
        sent = traceparents(20)

        with tail("--json", "--count=20", station.url) as running:
            station.send(*({"traceparent": each} for each in sent))
            seen = running.messages()

        assert [each["traceparent"] for each in station.receive(20)] == sent
        assert [each["trace_id"] for each in seen] == [each[3:35] for each in sent]

    def test_nothing_is_left_at_the_broker(self, station: Station) -> None:
        before = station.leftovers()

        with tail(station.url) as running:
            running.end()

        assert station.leftovers() == before
