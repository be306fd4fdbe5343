"""The table of each client: its ways to send and to consume, and the laws."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, Literal

from contract.laws import LAWS, TESTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tables.collected import CollectedTest

Direction = Literal["send", "consume"]

_SENDING: Final = frozenset({"SendingContract", "FittingContract"})

# Why a law has nothing to do with a direction.
_REASONS: Final[dict[tuple[Direction, int], str]] = {
    ("send", 5): "a",
    ("send", 7): "a",
    ("consume", 2): "b",
    ("consume", 3): "b",
    ("consume", 6): "b",
}

_INTRODUCTION: Final = """# What is tested for which client

Made by `python -m tables` from the tests themselves; `make check` compares it with them. Each row is a way to
send or to consume that the tests run on the real client and a real broker. Its columns are the laws:

{laws}

`tested`: by tests that run on this way. `once`: by tests of the client that do not depend on the way. Other
cells hold a reason:

- a: nothing is handled or processed where a message leaves.
- b: nothing is written where a message arrives.
"""

_PUBLIC_API: Final = 8


def coverage(tests: Iterable[CollectedTest]) -> str:
    """Return the document."""
    laws = "\n".join(f"{number}. {law}" for number, law in LAWS.items())
    by_client: dict[str, list[CollectedTest]] = defaultdict(list)
    for test in tests:
        if test.client is not None:
            by_client[test.client].append(test)
    parts = [_INTRODUCTION.format(laws=laws)]
    messaging = [client for client, own in by_client.items() if any(test.way is not None for test in own)]
    parts += [_section(client, by_client[client]) for client in sorted(messaging)]
    return "\n".join(parts)


def _section(client: str, tests: list[CollectedTest]) -> str:
    header = "| | way | " + " | ".join(map(str, LAWS)) + " |"
    line = "|---" * (len(LAWS) + 2) + "|"
    return "\n".join([f"## {client}", "", header, line, *_rows(tests), ""])


def _rows(tests: list[CollectedTest]) -> Iterator[str]:
    directions: tuple[Direction, ...] = ("send", "consume")
    for direction in directions:
        own = [test for test in tests if _direction(test) == direction]
        for way in dict.fromkeys(test.way for test in own if test.way is not None):
            cells = [_cell(direction, law, way, own) for law in LAWS]
            yield f"| {direction} | {way} | " + " | ".join(cells) + " |"


def _direction(test: CollectedTest) -> Direction:
    return "send" if test.contracts & _SENDING else "consume"


def _cell(direction: Direction, law: int, way: str, tests: list[CollectedTest]) -> str:
    about = [test for test in tests if test.name in TESTS[law]]
    if any(test.way == way for test in about):
        return "tested"
    if law == _PUBLIC_API or any(test.way is None for test in about):
        return "once"
    return _REASONS.get((direction, law), "**missing**")
