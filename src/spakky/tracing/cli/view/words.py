"""Numbers and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["count", "duration", "moment"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_WITHOUT_DECIMALS: Final = 100 * _MILLISECOND
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def duration(nanoseconds: int) -> str:
    """Return how long something took, such as `17.1 ms`, `1.23 s`, `2 min 05 s`."""
    if nanoseconds < _WITHOUT_DECIMALS:
        return f"{nanoseconds / _MILLISECOND:.1f} ms"
    if nanoseconds < _SECOND:
        return f"{nanoseconds // _MILLISECOND} ms"
    if nanoseconds < _MINUTE:
        return f"{nanoseconds // (_SECOND // 100) / 100:.2f} s"
    if nanoseconds < _HOUR:
        return f"{nanoseconds // _MINUTE} min {nanoseconds % _MINUTE // _SECOND:02} s"
    if nanoseconds < _DAY:
        return f"{nanoseconds // _HOUR} h {nanoseconds % _HOUR // _MINUTE:02} min"
    return f"{nanoseconds // _DAY} d {nanoseconds % _DAY // _HOUR:02} h"


def moment(unix_nano: int) -> str:
    """Return a point in time, such as `2026-11-24 18:05:01.123 UTC`."""
    at = _EPOCH + timedelta(microseconds=unix_nano // 1000)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return how many there are, such as `no spans`, `1 span`, `2,000 spans`."""
    many = plural or f"{noun}s"
    return {0: f"no {many}", 1: f"1 {noun}"}.get(number, f"{number:,} {many}")
