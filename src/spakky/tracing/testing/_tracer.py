"""The tracer of a test: it keeps finished spans, and knows those that have not ended."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from spakky.tracing.recorder import JsonLinesRecorder, Recorder, Span
from spakky.tracing.testing._wording import ids

if TYPE_CHECKING:
    from pathlib import Path

    from spakky.tracing.tracer import ISpan, ITracer, Operation, Outcome

__all__ = ["OpenSpan", "RecordingTracer"]

_PROCESS: Final = "test"
"""What the process that runs the tests is called in its spans."""


class _Memory(Recorder):
    """Keeps spans; a process that is forked off has another memory, so it writes them to the file."""

    def __init__(self, file: Path) -> None:
        super().__init__(process=_PROCESS)
        self.spans: list[Span] = []
        self._process_id = os.getpid()
        self._file = JsonLinesRecorder(file, process=_PROCESS)

    def record(self, span: Span) -> None:
        """Keep *span*."""
        if os.getpid() == self._process_id:
            self.spans.append(span)
        else:
            self._file.record(span)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RecordingTracer:
    """Keeps the spans of this process, and lets the tracer that was there before go on recording.

    Attributes:
        unfinished: The spans that have not ended, in the order in which they started.
    """

    def __init__(self, file: Path, before: ITracer | None) -> None:
        """Record here what happens here, and to *file* what happens in processes that are forked off."""
        self.unfinished: dict[int, OpenSpan] = {}
        self._memory = _Memory(file)
        self._before = before

    @property
    def records_receiving(self) -> bool:
        """Whether waiting for a message is recorded, as the tracer before wants it."""
        return bool(getattr(self._before, "records_receiving", False))

    @property
    def finished(self) -> list[Span]:
        """The spans that have ended, in that order."""
        return list(self._memory.spans)

    def start(self, operation: Operation) -> OpenSpan:
        """Start to record *operation*, with the ids that the tracer before gives it."""
        before = None if self._before is None else self._before.start(operation)
        if before is not None:
            operation = replace(operation, context=before.context)
        recorded = [self._memory.start(operation), *([] if before is None else [before])]
        span = OpenSpan(self, operation, recorded)
        self.unfinished[id(span)] = span
        return span

    def close(self) -> None:
        """Stop to record what happens in forked processes."""
        self._memory.close()


class OpenSpan:
    """An operation that is being recorded, maybe by two tracers."""

    def __init__(self, tracer: RecordingTracer, operation: Operation, recorded: list[ISpan]) -> None:
        self.context = operation.context
        self._tracer = tracer
        self._operation = operation
        self._recorded = recorded
        self._where = _here()

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Record the operation as finished."""
        try:
            for span in self._recorded:
                span.end(outcome, error)
        finally:
            self._tracer.unfinished.pop(id(self), None)

    def __str__(self) -> str:
        operation = self._operation
        told = ids(self.context.trace_id, self.context.span_id)
        return f"{operation.name!r} ({operation.kind}), started in {self._where}, {told}"


def _here() -> str:
    thread = f"the thread {threading.current_thread().name!a}"
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here
        task = None
    return thread if task is None else f"the task {task.get_name()!a} of {thread}"
