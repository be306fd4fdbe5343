"""Values out of files of others: taken if they can be drawn, otherwise it is said what is wrong."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NoSpanError", "flag", "identifier", "nanoseconds", "number", "text", "whole"]

_HEXADECIMAL: Final = re.compile(r"[0-9a-f]+")
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")
_UINT64: Final = 1 << 64
_LONGEST_TEXT: Final = 1 << 16
_DIGITS_OF_BASE64: Final = {24: 32, 12: 16}  # characters of base64: digits of the id that they stand for


class NoSpanError(Exception):
    """What was read is no span; the message is the reason, such as `it has no trace_id`."""


def text(fields: Mapping[str, object], name: str, default: str = "") -> str:
    """Return a text, *default* if there is none.

    Raises:
        NoSpanError: It is something else, or absurdly long.
    """
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        message = f"its {name} is no text"
        raise NoSpanError(message)
    if len(value) > _LONGEST_TEXT:
        message = f"its {name} has {len(value):,} characters"
        raise NoSpanError(message)
    return value


def flag(fields: Mapping[str, object], name: str) -> bool | None:
    """Return what is true or false, `None` if it is not there.

    Raises:
        NoSpanError: It is something else.
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        message = f"its {name} is neither true nor false"
        raise NoSpanError(message)
    return value


def number(fields: Mapping[str, object], name: str) -> int | None:
    """Return a whole number, `None` if there is none.

    Raises:
        NoSpanError: It is something else, negative or absurdly large.
    """
    value = fields.get(name)
    if value is None:
        return None
    if (found := whole(value)) is None:
        message = f"its {name} is no whole number that makes sense"
        raise NoSpanError(message)
    return found


def nanoseconds(fields: Mapping[str, object], name: str) -> int:
    """Return a point in time, in nanoseconds since 1970.

    Raises:
        NoSpanError: It is something else, or not there.
    """
    if (found := number(fields, name)) is None:
        message = f"it has no {name}"
        raise NoSpanError(message)
    return found


def whole(value: object) -> int | None:
    """Return a number of at most 64 bits as it comes in JSON: as a number or as text; `None` for others."""
    if isinstance(value, str):
        value = int(value) if _DECIMAL.fullmatch(value) else None
    if isinstance(value, float):  # of a program that knows no other numbers
        value = int(value) if value.is_integer() else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _UINT64:
        return value
    return None


def identifier(fields: Mapping[str, object], name: str, digits: int) -> str | None:
    """Return the id of a trace or a span in lower case, `None` if there is none.

    Args:
        fields: Where it is looked up.
        name: Under which name.
        digits: How many hexadecimal digits it has. It may be written in base64, too, as protobuf does.

    Raises:
        NoSpanError: It is something else.
    """
    value = fields.get(name)
    if value is None or value == "":
        return None
    found = value.lower() if isinstance(value, str) else ""
    if len(found) != digits and _DIGITS_OF_BASE64.get(len(found)) == digits:
        found = _from_base64(str(value))
    if len(found) != digits or not _HEXADECIMAL.fullmatch(found):
        message = f"its {name} is not {digits} hexadecimal digits"
        raise NoSpanError(message)
    return found if found.strip("0") else None


def _from_base64(value: str) -> str:
    try:
        return b64decode(value, validate=True).hex()
    except ValueError:
        return ""
