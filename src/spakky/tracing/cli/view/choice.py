"""Which traces are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spakky.tracing.cli.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spakky.tracing.cli.view.traces import Trace

__all__ = ["Choice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is asked for.

    Attributes:
        prefixes: What the ids of the traces begin with, in lower case; empty for any.
        only_failed: Whether a span of them has to have failed.
        slowest: How many of the slowest; `None` for the order of time.
        last: How many of the last ones; `None` for all.
    """

    prefixes: Sequence[str] = ()
    only_failed: bool = False
    slowest: int | None = None
    last: int | None = None

    def of(self, traces: Sequence[Trace]) -> Sequence[Trace]:
        """Return the chosen ones of *traces*, which are in the order of time; the slowest first if so asked.

        Raises:
            Refusal: No id begins with one of the prefixes.
        """
        self._check(traces)
        found = [
            trace
            for trace in traces
            if (not self.prefixes or trace.trace_id.startswith(tuple(self.prefixes)))
            and (not self.only_failed or trace.has_failed)
        ]
        if self.slowest is not None:
            shown = sorted(found, key=_duration, reverse=True)[: self.slowest]
        else:
            shown = found if self.last is None else found[-self.last :]
        return shown

    def _check(self, traces: Sequence[Trace]) -> None:
        for prefix in self.prefixes:
            if not any(trace.trace_id.startswith(prefix) for trace in traces):
                message = f"No trace begins with {prefix}: without --trace all are shown."
                raise Refusal(message)


def _duration(trace: Trace) -> int:
    return trace.end_unix_nano - trace.start_unix_nano
