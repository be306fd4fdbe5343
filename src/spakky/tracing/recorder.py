"""Tracers that need no backend: they keep finished spans, or write them to a file as JSON lines.

`set_tracer(JsonLinesRecorder("spans.jsonl"))` records all boundaries of a process. The environment variable
`SPAKKY_TRACING_RECORD=spans.jsonl` does the same without a line of code.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from spakky.tracing.context import TraceContext
    from spakky.tracing.tracer import Kind, Operation, Outcome

__all__ = ["JsonLinesRecorder", "MemoryRecorder", "Recorder", "Span", "SpanLink", "read_spans", "spans_in"]

_logger: Final = logging.getLogger("spakky.tracing")


@dataclass(frozen=True, slots=True)
class SpanLink:
    """Another span that a span comes from."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A finished operation.

    Attributes:
        name: For people, such as `process orders`.
        kind: `producer`, `consumer`, `client` or `server`.
        system: The messaging system, such as `kafka`.
        destination: The topic, exchange, queue, path or host; empty if it is not known.
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        parent_span_id: The span it belongs to, `None` for a root.
        links: Other spans that it comes from.
        start_unix_nano: When it started, in nanoseconds since 1970 (UTC).
        end_unix_nano: When it ended, likewise; never before it started.
        outcome: How it ended.
        error: The qualified name of the exception's class, `None` if there was none. Never its message, which
            may quote the payload.
        attempt: 1 for the first try, 2 for the first retry; `None` if the broker does not say.
        process: The name of the process that recorded it.
        process_id: Its number.
        death_count: How often the message was dead-lettered on its way; `None` if the broker does not say.
        is_redelivered: Whether the broker handed it out again; `None` if it does not say.
        queue_time_nano: How long the message was on its way, in nanoseconds, from its own timestamp to the
            start of its processing; 0 if the clocks disagree, `None` if it has no timestamp.
        is_scheduled: Whether it is known that a clock started it, such as Celery's beat.
    """

    name: str
    kind: Kind
    system: str
    destination: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    links: tuple[SpanLink, ...]
    start_unix_nano: int
    end_unix_nano: int
    outcome: Outcome
    error: str | None
    attempt: int | None
    process: str
    process_id: int
    death_count: int | None = None
    is_redelivered: bool | None = None
    queue_time_nano: int | None = None
    is_scheduled: bool = False


class Recorder(ABC):
    """A tracer that makes a `Span` of each operation; what becomes of it, a subclass says."""

    def __init__(self, *, process: str | None = None) -> None:
        """Record under a name.

        Args:
            process: The name of this process in the spans; `None` takes the program's file name,
                or the package's of `python -m`.
        """
        self._process = process or _program_name()

    def start(self, operation: Operation) -> _OpenSpan:
        """Start to record *operation*."""
        return _OpenSpan(self, operation, self._process)

    @abstractmethod
    def record(self, span: Span) -> None:
        """Take a finished *span*; called from any thread."""


class MemoryRecorder(Recorder):
    """Keeps the newest spans in memory, for tests and for looking around.

    Attributes:
        spans: The finished spans, oldest first.
    """

    def __init__(self, *, process: str | None = None, capacity: int = 10_000) -> None:
        """Keep at most *capacity* spans; older ones are dropped."""
        super().__init__(process=process)
        self.spans: deque[Span] = deque(maxlen=capacity)

    def record(self, span: Span) -> None:
        """Keep *span*."""
        self.spans.append(span)


class JsonLinesRecorder(Recorder):
    """Appends each span to a file as one line of JSON.

    Any number of processes may write to the same file: a line is one `write` to a file opened for appending,
    which POSIX keeps whole. A file that cannot be written loses spans and says so once in the log; it never
    fails a message.
    """

    def __init__(self, path: str | os.PathLike[str], *, process: str | None = None) -> None:
        """Append to the file at *path*, which is made if it is not there.

        Raises:
            OSError: The file cannot be opened for appending.
        """
        super().__init__(process=process)
        self._path = Path(path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._has_failed = False

    def record(self, span: Span) -> None:
        """Append *span*."""
        line = json.dumps(asdict(span), ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            self._warn_once(str(error))
        else:
            if written < len(line):  # what a disk does that is almost full
                self._warn_once(f"{written} of {len(line)} bytes were taken")

    def close(self) -> None:
        """Close the file; spans that end later are dropped."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _warn_once(self, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            _logger.warning("spans are lost, %s cannot be written: %s", self._path, reason)


def read_spans(path: str | os.PathLike[str]) -> Iterator[Span]:
    """Yield the spans of a file of JSON lines, in the order in which they ended.

    Lines that are no span, such as one that was cut by a full disk, are passed over with a debug log.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        yield from spans_in(lines)


def spans_in(lines: Iterable[str]) -> Iterator[Span]:
    """Yield the spans of *lines* of JSON; a line that is no span is passed over with a debug log."""
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            links = tuple(SpanLink(**link) for link in fields.pop("links"))
            yield Span(**fields, links=links)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _logger.debug("line %d is no span: %s", number, type(error).__name__)


class _OpenSpan:
    """An operation between its start and its end."""

    __slots__ = ("_ended", "_operation", "_process", "_recorder", "_start", "context")

    context: TraceContext

    def __init__(self, recorder: Recorder, operation: Operation, process: str) -> None:
        self.context = operation.context
        self._recorder = recorder
        self._operation = operation
        self._process = process
        self._start = operation.start_unix_nano or time.time_ns()
        self._ended = False

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Record the operation as finished; a second call is ignored."""
        if self._ended:
            return
        self._ended = True
        operation = self._operation
        self._recorder.record(
            Span(
                name=operation.name,
                kind=operation.kind,
                system=operation.system,
                destination=operation.destination,
                trace_id=self.context.trace_id,
                span_id=self.context.span_id,
                parent_span_id=operation.parent.span_id if operation.parent else None,
                links=tuple(SpanLink(link.trace_id, link.span_id) for link in operation.links),
                start_unix_nano=self._start,
                end_unix_nano=max(self._start, time.time_ns()),
                outcome=outcome,
                error=None if error is None else _qualified_name(type(error)),
                attempt=operation.attempt,
                process=self._process,
                process_id=os.getpid(),
                death_count=operation.death_count,
                is_redelivered=operation.is_redelivered,
                queue_time_nano=operation.queue_time_at(self._start),
                is_scheduled=operation.is_scheduled,
            )
        )


def _qualified_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _program_name() -> str:
    program = Path(sys.argv[0])
    is_package = program.name == "__main__.py"  # as of `python -m celery`
    return (is_package and program.parent.name) or program.name or "python"
