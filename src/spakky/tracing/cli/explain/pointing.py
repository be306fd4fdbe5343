"""Shows a value, with marks below the characters that a finding is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spakky.tracing.cli.headers.findings import Place

__all__ = ["Pointed", "excerpt", "pointed", "spelled"]

_BEFORE: Final = 24
"""How many cells are shown before the first place, where a value is too long to be shown whole."""

_MORE: Final = "..."


def spelled(value: str) -> str:
    r"""Return *value* with what is not printable ASCII written as `\xe4`, so that a character is a cell.

    No header may have such a character as it is, and how wide a terminal draws it depends on those around it.
    """
    if value.isascii() and value.isprintable():
        return value
    return "".join(_spelled(character) for character in value)


class Pointed(NamedTuple):
    """What is shown of a value, and the line below with a mark for each cell that is meant."""

    shown: str
    marks: str


def pointed(value: str, places: Sequence[Place]) -> Pointed:
    """Return all of *value* and the marks below it."""
    return _pointed(value, places, 0, len(value))


def excerpt(value: str, places: Sequence[Place], width: int) -> Pointed:
    """Return the part of *value* around the first place that fits into *width* cells, and the marks below."""
    start = stop = min(len(value), *(place.start for place in places))
    cells = 0
    while start and cells < _BEFORE:
        start -= 1
        cells += _cells(value[start])
    room = width - 2 * len(_MORE)
    while stop < len(value) and cells + (more := _cells(value[stop])) <= room:
        cells += more
        stop += 1
    shown, marks = _pointed(value, places, start, stop)
    before, after = _MORE if start else "", _MORE if stop < len(value) else ""
    return Pointed(f"{before}{shown}{after}", " " * len(before) + marks)


def _pointed(value: str, places: Sequence[Place], start: int, stop: int) -> Pointed:
    """Return what is between *start* and *stop*; a place of no character gets one mark where it is."""
    meant = bytearray(stop - start + 1)
    for place in places:
        for index in range(max(place.start, start), min(max(place.end, place.start + 1), stop + 1)):
            meant[index - start] = True
    marks = "".join(
        ("^" if meant[index - start] else " ") * max(_cells(value[index]), meant[index - start])
        for index in range(start, stop)
    )
    return Pointed(spelled(value[start:stop]), (marks + "^" * meant[-1] * (stop == len(value))).rstrip())


def _cells(character: str) -> int:
    return len(_spelled(character))


def _spelled(character: str) -> str:
    is_shown = character.isascii() and character.isprintable()
    return character if is_shown else character.encode("unicode_escape").decode("ascii")
