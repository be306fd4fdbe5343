"""The command line as a whole: what it offers, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

from architecture.project import run
from cli.running import in_terminal, piped
from spakky.tracing.cli.terminal import printable

_HEADER: Final = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_help_names_every_command_within_80_columns() -> None:
    shown = in_terminal("--help")

    assert shown.code == 0
    assert max(map(len, shown.output.splitlines())) <= 80


def test_help_says_in_whole_sentences_what_each_command_is_for() -> None:
    commands = piped("--help").output.partition("Commands:")[2]

    assert {"explain", "tail", "view"} < set(commands.split())
    assert "..." not in commands


@pytest.mark.parametrize("command", ["explain", "tail", "view"])
def test_help_of_a_command_keeps_within_80_columns_and_has_no_marks_of_its_source(command: str) -> None:
    shown = in_terminal(command, "--help")

    assert shown.code == 0
    assert max(map(len, shown.output.splitlines())) <= 80
    assert "\\" not in shown.output


def test_help_of_tail_has_each_kind_of_url_on_a_line_of_its_own() -> None:
    lines = [line.strip() for line in piped("tail", "--help").output.splitlines()]

    assert "kafka://HOST[:PORT]/TOPIC" in lines
    assert "amqp://HOST/EXCHANGE-or-QUEUE" in lines
    assert "redis://HOST/QUEUE" in lines


def test_the_version_is_that_of_the_distribution() -> None:
    assert piped("--version").output.split()[-1] == version("spakky-tracing")


def test_an_unknown_command_is_refused_in_one_sentence() -> None:
    ended = piped("explian")

    assert (ended.code, ended.output) == (2, "")
    assert "No such command 'explian'" in ended.errors
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize("arguments", [("--help",), ("explain", _HEADER), ("explain", *[_HEADER] * 500)])
def test_a_full_disk_is_one_sentence(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "spakky.tracing", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ended.stderr == "Error: the output cannot be written: No space left on device.\n"
    assert ended.returncode == 2


def test_a_reader_who_has_enough_is_no_error() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "spakky.tracing", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ended.stderr == ""


@pytest.mark.parametrize("module", ["click", "rich"])
def test_a_missing_extra_names_the_command_that_installs_it(module: str) -> None:
    outcome = run(
        "import sys\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.partition('.')[0] == {module!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "from spakky.tracing.__main__ import main\n"
        "main()\n"
    )

    assert outcome.returncode == 2
    assert outcome.stderr == f"Error: {module} is not installed: pip install 'spakky-tracing[cli]'\n"


def test_what_a_terminal_acts_upon_is_written_out() -> None:
    hostile = (
        "\x1b[31mred\x07\r\n\x9b2J\N{RIGHT-TO-LEFT OVERRIDE}\N{ZERO WIDTH SPACE}\udce4\x7f\u2028\U000e0001"
    )

    shown = printable(hostile)

    assert shown == (r"\x1b[31mred\x07\r\n\x9b2J\u202e\u200b\udce4\x7f\u2028\U000e0001")
    assert re.fullmatch(r"[ -~]+", shown)
    assert printable("Bestellung Nr. 7: Käse, 注文") == "Bestellung Nr. 7: Käse, 注文"


@pytest.mark.parametrize(
    "character",
    [
        "\N{VARIATION SELECTOR-16}",
        "\N{VARIATION SELECTOR-17}",
        "\N{COMBINING GRAPHEME JOINER}",
        "\N{HANGUL FILLER}",
        "\N{HALFWIDTH HANGUL FILLER}",
        "\N{MONGOLIAN FREE VARIATION SELECTOR ONE}",
        "\N{BRAILLE PATTERN BLANK}",
        "\N{TAG LATIN SMALL LETTER A}",
        "\N{SOFT HYPHEN}",
    ],
)
def test_what_is_shown_as_nothing_is_written_out(character: str) -> None:
    assert printable(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"
