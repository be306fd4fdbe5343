"""What all sources share during one run."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event

from brokers.unavailable import Unavailable

Report = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One run that needs brokers.

    Attributes:
        report: Takes each line about what is being done.
        started: What has to end with the run.
        stopping: Set as soon as the run is over.
    """

    report: Report
    started: ExitStack = field(default_factory=ExitStack)
    stopping: Event = field(default_factory=Event)

    def pause(self, seconds: float) -> None:
        """Wait a moment, or raise `Unavailable` as soon as the run is over."""
        if self.stopping.wait(seconds):
            raise Unavailable(reason="the run was stopped")
