"""Runs what is on a page, as a reader would who does one thing after the other."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brokers.guarded import Guarded
    from docs.pages import Block

PATIENCE: Final = 60
UNTITLED: Final = "shop.py"

_IN_FOLDER: Final = ("sh", "-c", 'cd "$0" && exec "$@"')
_NOT_RUN: Final = {"docker", "git", "make", "pip"}  # test_names.py looks at what is named in these commands
_STRICTLY: Final = ("-W", "error", "-W", "ignore::ResourceWarning")
_ID: Final = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{16})\b")


def with_names(code: str, names: Mapping[str, str]) -> str:
    """Return *code* with addresses and names of queues put in."""
    for written, name in names.items():
        code = code.replace(written, name)
    return code


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a program that imports this project."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables}


def run(code: str, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run *code* as the program `shop.py` in *folder*, which has to end well and without a warning."""
    script = folder / UNTITLED
    script.write_text(code, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, *_STRICTLY, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
        env=environment(**variables),
    )
    assert finished.returncode == 0, finished.stderr
    return finished


def printed_by(code: str, folder: Path, *arguments: str, **variables: str) -> list[str]:
    """Run *code* so, logging nothing, and return the lines that it printed."""
    finished = run(code, folder, *arguments, **variables)
    assert finished.stderr == "", finished.stderr
    return finished.stdout.splitlines()


def without_ids(text: str) -> str:
    """Return *text* with ids of traces and spans numbered: the same id has the same number."""
    numbers: dict[str, str] = {}
    return _ID.sub(lambda found: numbers.setdefault(found[0], f"id-{len(numbers) + 1}"), text)


class Reader:
    """Does what the blocks of a page say, in a folder of its own.

    Args:
        folder: Where the programs of the page are written, and its commands run.
        addresses: What is on the page, and what there is here in its place.
        processes: Runs what a page leaves running.
    """

    def __init__(self, folder: Path, addresses: Mapping[str, str], processes: Guarded) -> None:
        self._folder = folder
        self._orders = f"orders-{uuid4().hex}"
        self._addresses = {**addresses, "8000": str(_free_port())}
        self._processes = processes
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        self.logs: list[str] = []

    def follow(self, block: Block) -> str:
        """Do what *block* says, and return what is seen then: commands with what they print."""
        if block.kind == "sh":
            self._start_each_of(block.text.splitlines())
        elif block.kind == "python":
            self._write(block.title or UNTITLED, block.text)
            return "" if block.title else self._printed_by(["python", UNTITLED])
        elif block.kind == "console":
            commands = [line for line in block.text.splitlines() if line.startswith("$ ")]
            return "".join(f"{line}\n{self._printed_by(shlex.split(line[2:]))}" for line in commands)
        return ""

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(self._here(text), encoding="utf-8")

    def _start_each_of(self, commands: list[str]) -> None:
        for command in commands:
            words = shlex.split(self._here(command))
            if words[0] not in _NOT_RUN:
                self.logs.append(words[0])
                argv: list[str | Path] = [*_IN_FOLDER, self._folder, *words]
                self._processes.start(words[0], argv, self._environment)
                if "--port" in words:
                    self._wait_for(words[0], int(words[words.index("--port") + 1]))

    def _printed_by(self, words: list[str]) -> str:
        """Return what a command prints; what client libraries log to its other stream is not on the page."""
        variables = [word for word in words if re.match("[A-Z_]+=", word)]
        finished = subprocess.run(
            [self._here(word) for word in words[len(variables) :]],
            env=self._environment | dict(word.split("=", 1) for word in variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=self._folder,
        )
        said = "\n".join(f"{name}: {self._processes.log(name)}" for name in self.logs)
        assert finished.returncode == 0, f"{words}: {finished.stderr}\n{said}"
        return finished.stdout.replace(self._orders, "orders")

    def _here(self, text: str) -> str:
        """Return *text* with what there is here in the place of what is on the page."""
        for on_page, here in self._addresses.items():
            text = text.replace(on_page, here)
        return re.sub(r"\borders\b", self._orders, text)

    def _wait_for(self, name: str, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not _is_open(port):
            assert self._processes.excuse(name) is None, self._processes.log(name)
            assert time.monotonic() < deadline, self._processes.log(name)
            time.sleep(0.05)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
