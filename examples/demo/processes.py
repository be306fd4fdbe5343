"""Starts the services, and reads what they log."""

import re
import time
from dataclasses import dataclass

from brokers.guarded import Guarded

from .route import Route, Service

READY_SECONDS = 40
PAUSE_SECONDS = 0.05
LAST_LINES = 12
# Written by `observing.observe`.
LOG_LINE = re.compile(r"(?P<time>\d+\.\d{6}) (?P<trace_id>[0-9a-f]{32}|-) (?P<message>.*)")
READY = re.compile(r"ready|Uvicorn running on (?P<url>http://\S+).*")


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, order=True)
class LogLine:
    """A line that a process logged.

    Attributes:
        time: When, in seconds since 1970.
        process: Which one.
        trace_id: The trace in which it was logged; `-` outside any trace.
        message: What it says.
    """

    time: float
    process: str
    trace_id: str
    message: str


class Processes:
    """The processes of the demo; they end when *guarded* does.

    Attributes:
        lines: What they logged so far, as `read` saw it.
    """

    def __init__(self, guarded: Guarded, route: Route) -> None:
        self.lines: list[LogLine] = []
        self._guarded = guarded
        self._services = route.services
        for service in self._services:
            guarded.start(service.name, service.command, route.environment(service, guarded.folder))

    def wait_until_ready(self, service: Service) -> str:
        """Wait for a process to say that it is ready, and return its address if it named one.

        Raises:
            DemoError: It ended, or it took too long.
        """
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for line in self._logged(service):
                if said := READY.fullmatch(line.message):
                    return said["url"] or ""
            self.check()
            time.sleep(PAUSE_SECONDS)
        message = f"{service.name} was not ready after {READY_SECONDS} seconds.{self._last_lines(service)}"
        raise DemoError(message)

    def read(self) -> list[LogLine]:
        """Return what was logged since the last call, oldest first."""
        logged = {line for service in self._services for line in self._logged(service)}
        new = sorted(logged.difference(self.lines))
        self.lines += new
        return new

    def check(self) -> None:
        """Check that all processes are running.

        Raises:
            DemoError: One of them ended.
        """
        for service in self._services:
            status = self._guarded.exit_status(service.name)
            if status is not None:
                message = f"{service.name} ended with status {status}.{self._last_lines(service)}"
                raise DemoError(message)

    def _logged(self, service: Service) -> list[LogLine]:
        found = map(LOG_LINE.fullmatch, self._guarded.log(service.name).splitlines())
        return [
            LogLine(float(line["time"]), service.name, line["trace_id"], line["message"])
            for line in found
            if line
        ]

    def _last_lines(self, service: Service) -> str:
        lines = self._guarded.log(service.name).splitlines()[-LAST_LINES:]
        return "".join(f"\n    {service.name}: {line}" for line in lines) or " It wrote nothing."
