"""Keeps processes and their folder for exactly as long as the process that asked for them lives.

Started as a script by `brokers.guarded`. It prints the path of a new temporary folder, then takes requests
from its standard input, one JSON object on each line:

    {"start": NAME, "argv": [...], "env": {...}}   run a command: output in NAME.log, then status in NAME.exit
    {"at_end": [...]}                              run this command when all is over

When its input ends, it kills all that it started and removes the folder. A pipe ends in every case, also when
the process at its other end is killed with SIGKILL, which that process itself could do nothing about.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICK_SECONDS = 0.1
FAREWELL_SECONDS = 60


class Wards:
    """The processes under guard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._farewells: list[list[str]] = []

    def obey(self, request: dict[str, object]) -> None:
        """Carry out one request."""
        match request:
            case {"start": str(name), "argv": list(argv), "env": dict(env)}:
                self._start(name, argv, env)
            case {"at_end": list(argv)}:
                self._farewells.append(argv)

    def note_ends(self) -> None:
        """Write down the exit status of each process that ended by itself."""
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                self._note_end(name, str(process.returncode))
                del self._running[name]

    def end(self) -> None:
        """Kill what still runs: its data are thrown away, so there is nothing to shut down in order."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kill_orphans()
        for argv in self._farewells:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, timeout=FAREWELL_SECONDS)

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            try:
                self._running[name] = subprocess.Popen(
                    argv,
                    env=env,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(str(error).encode())
                self._note_end(name, "not started")

    def _note_end(self, name: str, status: str) -> None:
        unfinished = self._folder / f"{name}.exit.part"
        unfinished.write_text(status)
        unfinished.rename(self._folder / f"{name}.exit")


def adopt_orphans() -> None:
    """Become the parent of every descendant that outlives its own parent, so that none can slip away."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def kill_orphans() -> None:
    """Kill the adopted, which hands over their own children in turn, until none is left."""
    while pids := _children():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    try:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in listed.split()]


def requests(owner: int, wards: Wards) -> Iterator[dict[str, object]]:
    """Yield the requests until the input ends or the owner is gone, and watch the wards meanwhile.

    The owner is watched too, because a child that it forked without exec would keep the pipe open for longer.
    """
    received = b""
    while os.getppid() == owner:
        wards.note_ends()
        if not select.select([0], [], [], TICK_SECONDS)[0]:
            continue
        if not (chunk := os.read(0, 65536)):
            return
        *lines, received = (received + chunk).split(b"\n")
        yield from map(json.loads, lines)


def main() -> None:
    """Guard until the owner is gone."""
    owner = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="brokers-", ignore_cleanup_errors=True) as folder:
        wards = Wards(Path(folder))
        try:
            print(folder, flush=True)
            for request in requests(owner, wards):
                wards.obey(request)
        finally:
            wards.end()


if __name__ == "__main__":
    main()
