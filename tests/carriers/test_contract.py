"""The published contract serves a carrier of somebody else, and sees what is wrong with one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from spakky.tracing.carriers.kafka import KafkaCarrier, KafkaHeaders
from spakky.tracing.error import WrongUseError
from spakky.tracing.testing import CarrierContract

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Lists = dict[str, list[Any]]


class ListsCarrier:
    """A carrier as a third party writes it: a dict of names to lists of values, as gRPC gateways have it."""

    def get(self, carrier: object, key: str) -> list[str] | None:
        if not isinstance(carrier, dict):
            return None
        found = [carrier[name] for name in self.keys(carrier) if name.lower() == key.lower()]
        values = [value for each in found if isinstance(each, list) for value in each]
        return [text for value in values if (text := self._text(value)) is not None] if found else None

    def keys(self, carrier: object) -> list[str]:
        return [name for name in carrier if isinstance(name, str)] if isinstance(carrier, dict) else []

    def set(self, carrier: Lists, key: str, value: str) -> None:
        self.remove(carrier, key)
        carrier[key] = [value]

    def remove(self, carrier: Lists, key: str) -> None:
        if not isinstance(carrier, dict):
            message = f"headers are a dict, got {type(carrier).__name__}"
            raise WrongUseError(message)
        for name in [name for name in self.keys(carrier) if name.lower() == key.lower()]:
            del carrier[name]

    def copy(self, carrier: object, without: Collection[str] = ()) -> Lists:
        if not isinstance(carrier, (dict, type(None))):
            message = f"headers are a dict or None, got {type(carrier).__name__}"
            raise WrongUseError(message)
        return {name: list(values) for name, values in (carrier or {}).items() if name.lower() not in without}

    def _text(self, value: object) -> str | None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value).decode("utf-8", "replace")
        return value if isinstance(value, str) else None


class TestListsCarrier(CarrierContract[Lists]):
    carrier = ListsCarrier()

    def native(self, headers: Iterable[tuple[str, object]]) -> Lists:
        return {name: [value] for name, value in headers}

    def pairs(self, headers: object) -> list[tuple[str, object]]:
        return [(name, value) for name, values in super().pairs(headers) for value in _list(values)]


def _list(values: object) -> list[object]:
    assert isinstance(values, list)
    return values


class Appends(KafkaCarrier):
    def set(self, carrier: KafkaHeaders, key: str, value: str) -> None:
        carrier.append((key, value.encode()))


class ReadsTheFirst(KafkaCarrier):
    def get(self, carrier: object, key: str) -> list[str] | None:
        return (super().get(carrier, key) or [])[:1]


class DecodesStrictly(KafkaCarrier):
    def get(self, carrier: Any, key: str) -> list[str] | None:
        return [value.decode() for name, value in carrier or () if name == key] or None


class MindsTheCase(KafkaCarrier):
    def remove(self, carrier: KafkaHeaders, key: str) -> None:
        carrier[:] = [header for header in carrier if header[0] != key]


class WritesText(KafkaCarrier):
    def set(self, carrier: Any, key: str, value: str) -> None:
        self.remove(carrier, key)
        carrier.append((key, value))


class LowersNames(KafkaCarrier):
    def set(self, carrier: KafkaHeaders, key: str, value: str) -> None:
        super().set(carrier, key.lower(), value)


class SharesWhatItCopies(KafkaCarrier):
    def copy(self, carrier: Any, without: Collection[str] = ()) -> KafkaHeaders:
        return carrier if isinstance(carrier, list) and not without else super().copy(carrier, without)


class CopiesAnotherType(KafkaCarrier):
    def copy(self, carrier: object, without: Collection[str] = ()) -> Any:
        return tuple(super().copy(carrier, without))


class DecodesOthers(KafkaCarrier):
    def set(self, carrier: KafkaHeaders, key: str, value: str) -> None:
        super().set(carrier, key, value)
        carrier[:] = [(name, (each or b"").decode("utf-8", "replace").encode()) for name, each in carrier]


class Reorders(KafkaCarrier):
    def set(self, carrier: KafkaHeaders, key: str, value: str) -> None:
        super().set(carrier, key, value)
        carrier.sort(key=lambda header: header[0])


class LeavesNothingOut(KafkaCarrier):
    def copy(self, carrier: object, without: Collection[str] = ()) -> KafkaHeaders:
        return super().copy(carrier, without and ())


class TakesAnything(KafkaCarrier):
    def remove(self, carrier: Any, key: str) -> None:
        if isinstance(carrier, list):
            super().remove(carrier, key)


class HasNoKeys(KafkaCarrier):
    def keys(self, carrier: object) -> list[str]:
        return list(dict.fromkeys(super().keys(carrier)))


class Remembers(KafkaCarrier):
    """Keeps the headers that it works on."""

    def copy(self, carrier: object, without: Collection[str] = ()) -> KafkaHeaders:
        self.headers = super().copy(carrier, without)
        return self.headers

    def get(self, carrier: object, key: str) -> list[str] | None:
        return super().get(getattr(self, "headers", carrier), key)


def failures(carrier: KafkaCarrier) -> set[str]:
    """Return the tests of the contract that *carrier* fails."""

    class Contract(CarrierContract[KafkaHeaders]):
        value_type = bytes
        repeats = True

        def native(self, headers: Iterable[tuple[str, object]]) -> KafkaHeaders:
            return [
                (name, value.encode() if isinstance(value, str) else value)  # type: ignore[misc]
                for name, value in headers
            ]

    contract = Contract()
    contract.carrier = carrier
    failed = set()
    for name, test in inspect.getmembers(contract, inspect.ismethod):
        if name.startswith("test_"):
            try:
                test()
            except Exception:  # noqa: BLE001 - any exception is a failure of the test
                failed.add(name)
    return failed


def test_a_carrier_that_is_right_fails_nothing() -> None:
    assert failures(KafkaCarrier()) == set()


@pytest.mark.parametrize(
    ("carrier", "failure"),
    [
        (Appends(), "test_writing_replaces_every_value_that_is_there"),
        (ReadsTheFirst(), "test_a_header_that_is_absent_is_none"),
        (DecodesStrictly(), "test_reading_never_raises"),
        (DecodesStrictly(), "test_a_value_that_is_no_text_is_no_value"),
        (MindsTheCase(), "test_removing_takes_out_every_value_in_any_casing"),
        (MindsTheCase(), "test_nothing_of_an_earlier_context_is_left"),
        (WritesText(), "test_what_is_written_is_flat_ascii_of_the_format_s_type"),
        (LowersNames(), "test_a_name_is_written_in_the_casing_that_it_is_given"),
        (SharesWhatItCopies(), "test_writing_into_a_copy_leaves_the_original_as_it_was"),
        (CopiesAnotherType(), "test_a_copy_is_of_the_type_that_the_client_wants"),
        (DecodesOthers(), "test_other_headers_keep_their_order_type_and_bytes"),
        (Reorders(), "test_other_headers_keep_their_order_type_and_bytes"),
        (LeavesNothingOut(), "test_a_copy_leaves_out_what_it_is_told_to"),
        (TakesAnything(), "test_what_is_no_native_container_is_not_written_into"),
        (HasNoKeys(), "test_the_keys_repeat_a_name_that_is_repeated"),
        (Remembers(), "test_nothing_is_remembered_from_one_message_to_the_next"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_carrier_that_is_wrong_is_found_out(carrier: KafkaCarrier, failure: str) -> None:
    assert failure in failures(carrier)
