"""Environment variables, as a process hands them to its children.

Facts:

- OpenTelemetry specifies the names (Context, "Environment Variables as Context Propagation Carriers"): ASCII
  letters in upper case, every other character but digits and `_` becomes `_`, and `_` goes before a digit.
  So the fields of the W3C are `TRACEPARENT`, `TRACESTATE` and `BAGGAGE`, and a variable `traceparent` is
  another one, which nobody reads.
- Windows does not tell the case of names apart. `os.environ` has them in upper case there.
- A value is bytes without a zero byte. Python shows what is not UTF-8 as lone surrogates (PEP 383), and
  `os.environb` shows the bytes.
- Linux starts no program with a variable of 128 KiB or more, Windows none of more than 32,767 characters. The
  fields of the W3C stay below both: a baggage has up to 8,192 bytes, a trace state up to 16,447.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from spakky.tracing._text import readable
from spakky.tracing.error import WrongUseError

__all__ = ["CARRIER", "EnvironCarrier"]

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_]")


class EnvironCarrier:
    """Reads, writes and copies environments; `CARRIER` is the one instance that is needed.

    What is read may be `os.environ`, `os.environb` or any mapping like them. What is written is a dict of
    `str`, which `subprocess` and `os.execve` take.
    """

    def __init__(self, *, ignores_case: bool = os.name == "nt") -> None:
        """Serve a system.

        Args:
            ignores_case: Whether names that differ in case are one variable there; true for Windows.
        """
        self._ignores_case = ignores_case

    def get(self, carrier: object, key: str) -> list[str] | None:
        """Return the value of the variable that *key* stands for, `None` if there is none."""
        wanted = _variable(key)
        found = [value for name, value in _variables(carrier) if self._stored(name) == wanted]
        return [text for value in found if (text := readable(value)) is not None] if found else None

    def keys(self, carrier: object) -> list[str]:
        """Return the names of all variables whose name a key can stand for."""
        return [name for name, _ in _variables(carrier) if isinstance(name, str) and name == _variable(name)]

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        """Make *value* that of the variable that *key* stands for.

        Raises:
            WrongUseError: The carrier is not a dict; neither is `os.environ`, which belongs to the process.
        """
        self.remove(carrier, key)
        carrier[_variable(key)] = value

    def remove(self, carrier: dict[str, str], key: str) -> None:
        """Take the variable out that *key* stands for.

        Raises:
            WrongUseError: The carrier is not a dict.
        """
        if not isinstance(carrier, dict):
            message = f"variables are written into a dict, got {type(carrier).__name__}: use copy() first"
            raise WrongUseError(message)
        unwanted = _variable(key)
        for name in [name for name in carrier if self._stored(name) == unwanted]:
            del carrier[name]

    def copy(self, carrier: object, without: Collection[str] = ()) -> dict[str, str]:
        """Return a new dict of *carrier*'s variables, less those that the keys *without* stand for.

        `bytes` become the `str` that stands for them in `os.environ`, anything else stays as it is.

        Raises:
            WrongUseError: It is neither a mapping nor `None`.
        """
        if carrier is not None and not isinstance(carrier, Mapping):
            message = (
                f"an environment must be a mapping of names to values or None, got {type(carrier).__name__}"
            )
            raise WrongUseError(message)
        unwanted = {_variable(key) for key in without}
        variables = _variables(carrier)
        return {name: _native(value) for name, value in variables if self._stored(name) not in unwanted}

    def _stored(self, name: object) -> object:
        """Return the name under which the system has the variable *name*."""
        return name.upper() if self._ignores_case and isinstance(name, str) else name


CARRIER: Final = EnvironCarrier()


def _variable(key: str) -> str:
    """Return the name of the variable that *key* stands for."""
    name = _NOT_IN_A_NAME.sub("_", key).upper()
    return f"_{name}" if not name or name[0].isdigit() else name


def _variables(carrier: object) -> Iterator[tuple[Any, Any]]:
    """Yield name and value of each variable, none for what is no mapping."""
    if isinstance(carrier, Mapping):
        for name in carrier:
            yield _native(name), carrier.get(name)  # another thread may have taken it out


def _native(part: Any) -> Any:  # noqa: ANN401 - an environment made by hand may hold anything
    """Return *part* of a variable as `os.environ` has it."""
    return os.fsdecode(part) if isinstance(part, bytes) else part
