from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pytest
from opentelemetry.propagators._envcarrier import EnvironmentGetter, EnvironmentSetter

from contract.contexts import full_context
from spakky.tracing.carriers.environ import CARRIER, EnvironCarrier
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.testing import CarrierContract
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WINDOWS: Final = EnvironCarrier(ignores_case=True)
NAMES: Final = {
    "traceparent": "TRACEPARENT",
    "TraceState": "TRACESTATE",
    "x-b3-traceid": "X_B3_TRACEID",
    "a.b c": "A_B_C",
    "": "_",
    "1x": "_1X",
    "_1x": "_1X",
    "-1": "_1",
    "\N{LATIN SMALL LETTER SHARP S}": "_",
    "\N{LATIN SMALL LETTER DOTLESS I}\N{LATIN SMALL LETTER LONG S}": "__",
    "\N{ARABIC-INDIC DIGIT ONE}": "_",
}


class TestEnvironCarrier(CarrierContract[dict[str, str]]):
    carrier = CARRIER
    foreign = os.fsdecode(b"\xff\xfe")

    def written(self, name: str) -> str:
        return re.sub("[^A-Z0-9_]", "_", name.upper())

    def native(self, headers: Iterable[tuple[str, Any]]) -> dict[str, str]:
        return {self.written(name): value for name, value in headers}

    def shapes(self, headers: Iterable[tuple[str, object]]) -> list[object]:
        variables = self.native(headers)
        return [variables, _as_bytes(variables), _Environment(variables)]


class TestEnvironCarrierOfWindows(TestEnvironCarrier):
    carrier = WINDOWS


class _Environment(Mapping[str, str]):
    """A mapping like `os.environ`, which is no dict and does not take names of another type."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def __getitem__(self, name: str) -> str:
        if not isinstance(name, str):
            raise TypeError
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Environment) and self._variables == other._variables

    __hash__ = None  # type: ignore[assignment] # as it can be compared


def _as_bytes(variables: dict[str, Any]) -> dict[bytes, Any]:
    """Return *variables* as `os.environb` has them."""
    return {
        os.fsencode(name): os.fsencode(value) if isinstance(value, str) else value
        for name, value in variables.items()
    }


@pytest.mark.parametrize(("key", "name"), NAMES.items())
def test_a_key_stands_for_the_variable_that_opentelemetry_names(key: str, name: str) -> None:
    written: dict[str, str] = {}
    CARRIER.set(written, key, "1")

    assert written == {name: "1"}
    assert CARRIER.get(written, key) == ["1"]
    assert CARRIER.copy(written, {key}) == {}


@pytest.mark.parametrize("key", NAMES)
def test_opentelemetry_s_own_carrier_names_it_alike(key: str) -> None:
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    CARRIER.set(ours, key, "1")
    EnvironmentSetter().set(theirs, key, "1")

    assert ours == theirs
    assert EnvironmentGetter().get(ours, key) == ["1"]
    assert CARRIER.keys({**ours, "lower": "", "1": ""}) == EnvironmentGetter().keys(
        {**ours, "lower": "", "1": ""}
    )


def test_a_variable_in_lower_case_is_another_one() -> None:
    environment = {"traceparent": TRACEPARENT, "Baggage": "in the cupboard"}

    assert CARRIER.get(environment, "traceparent") is None
    assert CARRIER.keys(environment) == []
    written = CARRIER.copy(environment, W3C.fields())
    W3C.inject(written, full_context(), CARRIER)
    assert {name: written[name] for name in environment} == environment


def test_a_variable_in_lower_case_is_the_same_one_on_windows() -> None:
    environment = {"TraceParent": TRACEPARENT, "tracestate": "stale=1", "Path": "C:\\"}

    assert WINDOWS.get(environment, "traceparent") == [TRACEPARENT]
    written = WINDOWS.copy(environment)
    W3C.inject(written, TraceContext.from_traceparent(TRACEPARENT), WINDOWS)
    assert written == {"Path": "C:\\", "TRACEPARENT": TRACEPARENT}
    assert WINDOWS.copy(environment, {"traceparent", "tracestate"}) == {"Path": "C:\\"}


def test_a_value_is_opaque() -> None:
    for value in (" bad value ", "", "\N{SNOWMAN}", os.fsdecode(b"\xff"), "x" * 1_000_000):
        assert CARRIER.get({"TRACEPARENT": value}, "traceparent") == [value]


def test_the_environment_of_this_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)

    for environment in (os.environ, os.environb):
        assert CARRIER.get(environment, "traceparent") == [TRACEPARENT]
        assert "TRACEPARENT" in CARRIER.keys(environment)


def test_a_copy_of_the_bytes_is_the_same_environment() -> None:
    assert CARRIER.copy(os.environb) == CARRIER.copy(os.environ) == dict(os.environ)
    assert CARRIER.copy({b"NAME": b"\xff"}) == {"NAME": os.fsdecode(b"\xff")}


def test_the_environment_of_this_process_is_never_written_into() -> None:
    before = dict(os.environ)

    wrong: list[Any] = [os.environ, os.environb, MappingProxyType({})]
    for environment in wrong:
        with pytest.raises(
            WrongUseError, match=r"^variables are written into a dict, got .*: use copy\(\) first$"
        ):
            W3C.inject(environment, full_context(), CARRIER)
    W3C.inject(CARRIER.copy(os.environ), full_context(), CARRIER)

    assert dict(os.environ) == before
