"""The contract that a carrier has to pass; for pytest, and without importing it.

A carrier for another wire format is right if a test class like this one passes:

    from spakky.tracing.testing import CarrierContract

    class TestNatsCarrier(CarrierContract[dict[str, str]]):
        carrier = NatsCarrier()

        def native(self, headers):
            return dict(headers)

The plugin of pytest, which comes with the package, makes failures tell both sides.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, cast

from spakky.tracing._text import readable
from spakky.tracing.baggage import Baggage
from spakky.tracing.carriers import HeadersT
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Callable

    from spakky.tracing.carriers import ICarrier

__all__ = ["CarrierContract"]

_TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_STALE: Final = "00-11111111111111111111111111111111-2222222222222222-01"
_CASINGS: Final = ("traceparent", "Traceparent", "TRACEPARENT", "tRaCePaReNt")
_THREADS: Final = 8
_ROUNDS: Final = 50


class CarrierContract(ABC, Generic[HeadersT]):
    """What `spakky.tracing.carriers.ICarrier` promises, as tests that a test class inherits.

    Attributes:
        carrier: The carrier under test.
        value_type: The exact type of a value that is written: `str`, or `bytes` where the format wants it.
        repeats: Whether a name may be there more than once.
        foreign: A value of somebody else's header that is no text; it has to survive untouched.
        unreadable: Values that no text can be read from; add what the client library hands out besides.
    """

    carrier: ICarrier[HeadersT]
    value_type: ClassVar[type[str | bytes]] = str
    repeats: ClassVar[bool] = False
    foreign: ClassVar[object] = b"\xff\x00\xfe"
    unreadable: ClassVar[tuple[object, ...]] = (None, 7, 1.5, True, object(), {"a": "b"}, {1: [2]}, [7, None])

    @abstractmethod
    def native(self, headers: Iterable[tuple[str, object]]) -> HeadersT:
        """Return new headers of the type that the client library wants to be given.

        Args:
            headers: Names and values in their order. A `str` is text, to be put in the way in which the
                format has text; any other value is to be put as it is.
        """

    def shapes(self, headers: Iterable[tuple[str, object]]) -> list[object]:
        """Return *headers* in each shape in which a client library may hand them out.

        Args:
            headers: As `native` takes them.
        """
        return [self.native(headers)]

    def written(self, name: str) -> str:
        """Return the name under which the format has *name*: itself, where it takes names as they are given.

        Environment variables are an example of the contrary: `traceparent` is `TRACEPARENT` there. `native`
        has to put names so.
        """
        return name

    def pairs(self, headers: object) -> list[tuple[str, object]]:
        """Return names and values of native *headers*; for a mapping or a sequence of pairs as it stands."""
        pairs = headers.items() if isinstance(headers, Mapping) else cast("Iterable[Any]", headers)
        return [(readable(name) or "", value) for name, value in pairs]

    def test_a_header_that_is_absent_is_none(self) -> None:
        for shape in self.shapes([("app", "1"), ("trace-parent", "x"), ("traceparents", "x")]):
            assert self.carrier.get(shape, "traceparent") is None

    def test_no_headers_at_all_are_read_as_none(self) -> None:
        for shape in (None, *self.shapes([])):
            assert self.carrier.get(shape, "traceparent") is None
            assert self.carrier.keys(shape) == []

    def test_what_was_written_is_read(self) -> None:
        headers = self.native([])

        self.carrier.set(headers, "traceparent", _TRACEPARENT)

        assert self.carrier.get(headers, "traceparent") == [_TRACEPARENT]

    def test_text_is_read_from_every_shape(self) -> None:
        for shape in self.shapes([("app", "1"), ("traceparent", _TRACEPARENT)]):
            assert self.carrier.get(shape, "traceparent") == [_TRACEPARENT]
            assert self.carrier.get(shape, "app") == ["1"]

    def test_text_is_read_from_every_type_of_text(self) -> None:
        data = _TRACEPARENT.encode()
        for value in (_TRACEPARENT, data, bytearray(data), memoryview(data)):
            for shape in self.shapes([("traceparent", value)]):
                assert self.carrier.get(shape, "traceparent") == [_TRACEPARENT]

    def test_a_name_is_found_in_any_casing(self) -> None:
        for there in _CASINGS:
            for asked in _CASINGS:
                for shape in self.shapes([(there, _TRACEPARENT)]):
                    assert self.carrier.get(shape, asked) == [_TRACEPARENT]

    def test_a_name_is_written_in_the_casing_that_it_is_given(self) -> None:
        headers = self.native([])

        self.carrier.set(headers, "X-Request-Id", "1")

        assert self._names(headers) == self._written("X-Request-Id")

    def test_writing_replaces_the_value_in_any_casing(self) -> None:
        for there in _CASINGS:
            headers = self.native([(there, _STALE)])

            self.carrier.set(headers, "traceparent", _TRACEPARENT)

            assert self._names(headers) == self._written("traceparent")
            assert self.carrier.get(headers, "traceparent") == [_TRACEPARENT]

    def test_writing_replaces_every_value_that_is_there(self) -> None:
        headers = self.native([("app", "1"), *self._several("traceparent", _STALE)])

        self.carrier.set(headers, "traceparent", _TRACEPARENT)

        assert sorted(self._names(headers)) == self._written("app", "traceparent")
        assert self.carrier.get(headers, "traceparent") == [_TRACEPARENT]

    def test_writing_twice_leaves_the_second_value(self) -> None:
        headers = self.native([])

        self.carrier.set(headers, "traceparent", _STALE)
        self.carrier.set(headers, "traceparent", _TRACEPARENT)

        assert len(self.pairs(headers)) == 1
        assert self.carrier.get(headers, "traceparent") == [_TRACEPARENT]

    def test_other_headers_keep_their_order_type_and_bytes(self) -> None:
        headers = self._others()
        before = self.pairs(headers)

        self.carrier.set(headers, "traceparent", _TRACEPARENT)
        self.carrier.remove(headers, "tracestate")

        after = [pair for pair in self.pairs(headers) if pair[0] != self.written("traceparent")]
        assert after == before
        assert [type(value) for _, value in after] == [type(value) for _, value in before]

    def test_what_is_written_is_flat_ascii_of_the_format_s_type(self) -> None:
        headers = self.native([])

        W3C.inject(headers, _full_context(), self.carrier)

        written = self.pairs(headers)
        assert sorted(name for name, _ in written) == self._written("baggage", "traceparent", "tracestate")
        assert {type(value) for _, value in written} == {self.value_type}
        assert all((readable(value) or "\N{BULLET}").isascii() for _, value in written)

    def test_a_value_that_is_no_text_is_no_value(self) -> None:
        for value in self.unreadable:
            for shape in self.shapes([("traceparent", value)]):
                assert self.carrier.get(shape, "traceparent") == [], f"of {value!r}"

    def test_bytes_that_are_no_text_are_no_context(self) -> None:
        for value in (b"\xff\xfe\x00", _TRACEPARENT.encode("utf-16"), _TRACEPARENT.encode() + b"\x80"):
            for shape in self.shapes([("traceparent", value), ("tracestate", value), ("baggage", value)]):
                assert isinstance(self.carrier.get(shape, "traceparent"), list)
                assert W3C.extract(shape, self.carrier) is None

    def test_reading_never_raises(self) -> None:
        for hostile in _hostile():
            for key in ("traceparent", "", "\x00", "\N{SNOWMAN}"):
                found = self.carrier.get(hostile, key)
                assert found is None or all(isinstance(value, str) for value in found), f"of {hostile!r}"
            names = self.carrier.keys(hostile)
            assert all(isinstance(name, str) for name in names), f"of {hostile!r}"
            assert W3C.extract(hostile, self.carrier) is None, f"of {hostile!r}"

    def test_reading_changes_nothing(self) -> None:
        for shape in self.shapes([("app", "1"), ("traceparent", _TRACEPARENT), ("Baggage", "a=1")]):
            before = copy.deepcopy(shape)

            self.carrier.get(shape, "traceparent")
            self.carrier.keys(shape)
            self.carrier.copy(shape, {"traceparent"})

            assert shape == before

    def test_the_keys_are_all_names_in_their_order(self) -> None:
        for shape in self.shapes([("app", "1"), ("X-Other", self.foreign), ("traceparent", _TRACEPARENT)]):
            assert self.carrier.keys(shape) == self._written("app", "X-Other", "traceparent")

    def test_the_keys_repeat_a_name_that_is_repeated(self) -> None:
        repeated = [name for name, _ in self._several("app", "1")]
        headers = self.native([*self._several("app", "1"), ("last", "2")])

        assert self.carrier.keys(headers) == self._written(*repeated, "last")

    def test_removing_takes_out_every_value_in_any_casing(self) -> None:
        for there in _CASINGS:
            headers = self.native([("app", "1"), *self._several(there, _STALE), ("last", "2")])

            self.carrier.remove(headers, "traceparent")

            assert self._names(headers) == self._written("app", "last")
            assert self.carrier.get(headers, "traceparent") is None

    def test_removing_what_is_not_there_does_nothing(self) -> None:
        headers = self._others()
        before = self.pairs(headers)

        self.carrier.remove(headers, "traceparent")

        assert self.pairs(headers) == before

    def test_a_copy_of_no_headers_is_empty(self) -> None:
        for shape in (None, *self.shapes([])):
            headers = self.carrier.copy(shape)

            assert type(headers) is type(self.native([]))
            assert self.pairs(headers) == []

    def test_a_copy_is_of_the_type_that_the_client_wants(self) -> None:
        entries = [("app", "1"), ("X-Other", self.foreign), ("traceparent", _TRACEPARENT)]
        wanted = self.native(entries)
        for shape in self.shapes(entries):
            headers = self.carrier.copy(shape)

            assert type(headers) is type(wanted)
            assert headers == wanted
            assert [type(value) for _, value in self.pairs(headers)] == [
                type(value) for _, value in self.pairs(wanted)
            ]

    def test_writing_into_a_copy_leaves_the_original_as_it_was(self) -> None:
        for shape in self.shapes([("app", "1"), ("traceparent", _STALE), ("tracestate", "old=1")]):
            before = copy.deepcopy(shape)

            headers = self.carrier.copy(shape)
            W3C.inject(headers, _full_context(), self.carrier)
            self.carrier.remove(headers, "app")

            assert headers is not shape
            assert shape == before
            assert type(shape) is type(before)

    def test_a_copy_leaves_out_what_it_is_told_to(self) -> None:
        for shape in self.shapes([("TraceParent", _STALE), ("app", "1"), ("baggage", "a=1"), ("last", "2")]):
            headers = self.carrier.copy(shape, {"traceparent", "baggage", "tracestate"})

            assert self._names(headers) == self._written("app", "last")
            assert self.carrier.get(headers, "traceparent") is None

    def test_what_cannot_be_headers_is_not_copied(self) -> None:
        for wrong in (7, 1.5, "traceparent", b"traceparent", object()):
            _refuses(partial(self.carrier.copy, wrong))

    def test_what_is_no_native_container_is_not_written_into(self) -> None:
        for wrong in (None, 7, "traceparent", b"traceparent", object(), ()):
            _refuses(partial(self.carrier.set, cast("HeadersT", wrong), "traceparent", "x"))
            _refuses(partial(self.carrier.remove, cast("HeadersT", wrong), "traceparent"))

    def test_a_context_comes_back_as_it_was_sent(self) -> None:
        context = _full_context()
        headers = self._others()

        W3C.inject(headers, context, self.carrier)

        for shape in self.shapes(self.pairs(headers)):
            found = W3C.extract(shape, self.carrier)
            assert found is not None
            assert found.to_traceparent() == context.to_traceparent()
            assert found.trace_state == context.trace_state
            assert found.baggage == context.baggage

    def test_nothing_of_an_earlier_context_is_left(self) -> None:
        stale = [("traceparent", _STALE), ("TraceState", "old=1"), ("BAGGAGE", "old=1")]
        headers = self.native([*stale, ("app", "1")])

        W3C.inject(headers, TraceContext.from_traceparent(_TRACEPARENT), self.carrier)

        assert sorted(self._names(headers)) == self._written("app", "traceparent")
        assert self.carrier.get(headers, "traceparent") == [_TRACEPARENT]
        assert self.carrier.get(headers, "tracestate") is None
        assert self.carrier.get(headers, "baggage") is None

    def test_nothing_is_remembered_from_one_message_to_the_next(self) -> None:
        first = self.carrier.copy(self.native([("traceparent", _STALE)]))
        second = self.carrier.copy(self.native([("app", "1")]))

        assert self.carrier.get(first, "traceparent") == [_STALE]
        assert self.carrier.get(second, "traceparent") is None
        self.carrier.set(second, "traceparent", _TRACEPARENT)
        assert self.carrier.get(first, "traceparent") == [_STALE]
        assert self.carrier.keys(first) == self._written("traceparent")

    def test_threads_may_share_the_carrier(self) -> None:
        together = Barrier(_THREADS, timeout=60)
        shared = self.shapes([("app", "1"), ("traceparent", _STALE)])[-1]

        def work(_: int) -> bool:
            together.wait()
            return all(self._comes_back(shared) for _ in range(_ROUNDS))

        with ThreadPoolExecutor(_THREADS) as threads:
            assert all(threads.map(work, range(_THREADS)))

    def _comes_back(self, shared: object) -> bool:
        context = _full_context()
        headers = self.carrier.copy(shared)
        W3C.inject(headers, context, self.carrier)
        found = W3C.extract(headers, self.carrier)
        return found is not None and found.to_traceparent() == context.to_traceparent()

    def _names(self, headers: HeadersT) -> list[str]:
        return [name for name, _ in self.pairs(headers)]

    def _written(self, *names: str) -> list[str]:
        return [self.written(name) for name in names]

    def _several(self, name: str, value: str) -> list[tuple[str, object]]:
        """Return a header as often as the format allows: in several casings where it is not repeated."""
        if self.repeats:
            return [(name, value), (name, value), (name.title(), value)]
        if self.written(name) == self.written(name.title()):
            return [(name, value)]
        return [(name, value), (name.title(), value)]

    def _others(self) -> HeadersT:
        return self.native([("b", "2"), ("X-Foreign", self.foreign), ("a", "\N{EURO SIGN}"), ("empty", "")])


def _full_context() -> TraceContext:
    """Return a context with all that can travel, in characters that have to be encoded."""
    root = TraceContext.new_root(
        baggage=Baggage({"customer": "J\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen"})
    )
    return root.child(trace_state=TraceState({"congo": "t61", "rojo": "00f067aa0ba902b7"}))


def _hostile() -> Collection[object]:
    """Return what no client library hands out as headers, and what only a broken one does."""
    endless: list[object] = []
    endless.append(endless)
    deep: dict[str, object] = {}
    deep["headers"] = deep
    key = "traceparent"
    return [
        *(7, 0, 1.5, True, object(), type, len, "", key, b"", b"traceparent", range(3), iter([]), {1, 2}),
        *([None], [1, 2], [[]], [()], [{}], ["ab"], ["traceparent"], [(key,)], [(key, key, key)], [[key]]),
        *([(1, 2)], [(None, None)], [(key, object())], [(key, None)], [([key], key)], [(b"\xff", b"\xff")]),
        *([(key, [key])], [((key, key), key)], (key, key), ((key,),), endless, [(key, endless)]),
        *({1: 2}, {None: None}, {key: object()}, {key: {key: key}}, {(key,): key}, {b"\xff": b"\xff"}),
        *({"headers": 7}, {"headers": key}, {"headers": {key: 7}}, {"headers": [key]}, deep),
        *({key: [[_TRACEPARENT]]}, {key: ["\ud800"]}, {key: "\ud800"}, {key: "\x00" * 100_000}),
        [(key, b"\x00" * 100_000)] * 100,
    ]


def _refuses(action: Callable[[], object]) -> None:
    """Check that *action* is refused with one sentence."""
    try:
        result = action()
    except WrongUseError as error:
        sentence = str(error)
    else:
        message = f"WrongUseError was expected, got {result!r}"
        raise AssertionError(message)
    assert sentence.strip()
    assert "\n" not in sentence
