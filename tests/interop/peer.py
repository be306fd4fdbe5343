"""Another process, in which OpenTelemetry's view of messages is asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from interop.seen import Answer

if TYPE_CHECKING:
    from interop.seen import Span

__all__ = ["Peer"]

PATIENCE: Final = 30
_TESTS: Final = Path(__file__).parents[1]


class Peer:
    """A process that serves one client library, from entering to leaving.

    What goes wrong in it is raised here as an `AssertionError` that shows its traceback and what it wrote on
    its standard error.
    """

    def __init__(self, client: str, address: str) -> None:
        """Say which module of `interop.peers` to run, and for which broker."""
        self._client = client
        self._command = [sys.executable, "-P", "-X", "faulthandler", "-m", f"interop.peers.{client}", address]

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors, self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()

    def modules(self) -> list[str]:
        """Return the names of the modules that are loaded there."""
        return self._ask(verb="modules").modules

    def send(
        self,
        destination: str,
        trace_state: dict[str, str] | None = None,
        baggage: dict[str, str] | None = None,
    ) -> list[Span]:
        """Send a message in a span of an application that has such a state and baggage; return the spans."""
        request = {"trace_state": trace_state or {}, "baggage": baggage or {}}
        return self._ask(verb="send", destination=destination, **request).spans

    def receive(self, source: str, way: str) -> Answer:
        """Take the first message of *source*."""
        return self._ask(verb="receive", source=source, way=way)

    def forward(self, source: str, way: str, destination: str) -> list[Span]:
        """Send the first message of *source* on with its headers, in another trace; return the spans."""
        return self._ask(verb="forward", source=source, way=way, destination=destination).spans

    def _ask(self, **request: Any) -> Answer:
        answer = Answer.from_json(json.loads(self._line_for(json.dumps(request))))
        assert answer.error is None, f"{self._client} failed to {request}:\n{answer.error}\n{self._said()}"
        return answer

    def _line_for(self, request: str) -> str:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        # A process that hangs says by this signal where it does, and ends.
        hanging = threading.Timer(PATIENCE, self._process.send_signal, [signal.SIGABRT])
        hanging.start()
        try:
            requests.write(request + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            hanging.cancel()
        assert line, f"{self._client} ended instead of an answer to {request}:\n{self._said()}"
        return line

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()


def _environment() -> dict[str, str]:
    """Return the environment of this process, less what would configure OpenTelemetry or us there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "SPAKKY_"))}
    return {**kept, "PYTHONPATH": str(_TESTS)}
