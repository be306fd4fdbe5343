"""Recording for the time of a test: of this process, and of those that it starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

# Read SPAKKY_TRACING_RECORD, as the first import of it does, before it gets a value below.
import spakky.tracing.boundaries.options  # noqa: F401
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.testing._recorded_file import RecordedFile
from spakky.tracing.testing._tracer import RecordingTracer
from spakky.tracing.testing._traces import Traces
from spakky.tracing.tracer import get_tracer, set_tracer

if TYPE_CHECKING:
    from types import TracebackType

    from spakky.tracing.tracer import ITracer

__all__ = ["RecordedTraces", "recorded_traces"]

_VARIABLE: Final = "SPAKKY_TRACING_RECORD"


def recorded_traces(*, leaks: bool = True, file: str | os.PathLike[str] | None = None) -> RecordedTraces:
    """Return a `with` or `async with` block, in which spans are recorded for a test.

    All boundaries of this process are recorded that name no tracer of their own, and those of the processes
    that it starts meanwhile. A tracer that was set before goes on recording; afterwards it is set again, and
    the environment is as it was before.

    Args:
        leaks: Whether the end of the block says that nothing may have leaked, unless an exception leaves it.
        file: A file of JSON lines to which processes write that run already; what they add is recorded too.

    Raises:
        AssertionError: At the end of the block: a span has not ended, or a context is left over.
    """
    return RecordedTraces(leaks=leaks, file=file)


class RecordedTraces:
    """A block in which spans are recorded; see `recorded_traces`, which makes it.

    In an event loop `async with` gives what is open at the end of the block time to end; `with` cannot.
    """

    def __init__(self, *, leaks: bool, file: str | os.PathLike[str] | None) -> None:
        self._leaks = leaks
        self._written_elsewhere = None if file is None else Path(file)
        self._recording: _Recording | None = None

    def __enter__(self) -> Traces:
        if self._recording is not None:
            message = "this block records already: call recorded_traces() again for another one"
            raise WrongUseError(message)
        self._recording = _Recording(self._written_elsewhere)
        return self._recording.traces

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        recording = self._taken()
        try:
            if self._leaks and error is None:
                recording.traces.must_not_leak()
        finally:
            recording.stop()

    async def __aenter__(self) -> Traces:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        recording = self._taken()
        try:
            if self._leaks and error is None:
                await recording.traces.must_not_leak_async()
        finally:
            recording.stop()

    def _taken(self) -> _Recording:
        recording, self._recording = self._recording, None
        if recording is None:
            message = "this block does not record: it was not entered"
            raise WrongUseError(message)
        return recording


class _Recording:
    """What is set while spans are recorded, and what was set before."""

    def __init__(self, written_elsewhere: Path | None) -> None:
        descriptor, name = tempfile.mkstemp(prefix="spakky-tracing-", suffix=".jsonl")
        os.close(descriptor)
        self._own_file = Path(name)
        self._context = TraceContext.get()
        self._tracer_before: ITracer | None = get_tracer()
        self._process_id = os.getpid()
        chosen = os.environ.get(_VARIABLE)
        file = Path(chosen).absolute() if chosen else self._own_file
        paths = {self._own_file, file, written_elsewhere or file}
        self._tracer = RecordingTracer(self._own_file, self._tracer_before)
        self.traces = Traces(self._tracer, file, [RecordedFile(path) for path in paths])
        set_tracer(self._tracer)
        os.environ.setdefault(_VARIABLE, name)  # an empty one switches recording off, and stays

    def stop(self) -> None:
        """Put back what was before."""
        set_tracer(self._tracer_before)
        if os.environ.get(_VARIABLE) == str(self._own_file):
            del os.environ[_VARIABLE]
        self._tracer.close()
        if os.getpid() == self._process_id:  # and not in a child that was forked off and returned to here
            self._own_file.unlink(missing_ok=True)
        if TraceContext.get() != self._context:
            _make_current(self._context)


def _make_current(context: TraceContext | None) -> None:
    if context is None:
        TraceContext.clear()
    else:
        TraceContext.set(context)
