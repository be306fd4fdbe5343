"""W3C Trace Context Level 2, sections 3.3 and 3.5; TS and MU ids are the rules that are tested."""

import contextlib
import copy
import pickle
import time

import pytest

from spakky.tracing.error import InvalidTraceStateError
from spakky.tracing.trace_state import MAX_LENGTH, TraceState

LONGEST_KEY = "k" * 256
LONGEST_VALUE = "v" * 256
MEMBERS_32 = ",".join(f"k{number:02}=v" for number in range(32))
MEMBERS_33 = MEMBERS_32 + ",k32=v"
LARGEST = ",".join(f"{number:02}{'k' * 254}={LONGEST_VALUE}" for number in range(32))

ACCEPTED = [
    pytest.param("", "", id="TS-11-no-text"),
    pytest.param(" \t ", "", id="TS-11-only-white-space"),
    pytest.param(",,,", "", id="TS-11-only-commas"),
    pytest.param("foo=1,,bar=2, ,", "foo=1,bar=2", id="TS-11-empty-members"),
    pytest.param([], "", id="TS-05-no-header"),
    pytest.param(["foo=1", ""], "foo=1", id="TS-11-empty-header-after"),
    pytest.param(["", "foo=1"], "foo=1", id="TS-11-empty-header-before"),
    pytest.param(["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3", id="TS-05"),
    pytest.param("foo=1 \t , \t bar=2, \t baz=3", "foo=1,bar=2,baz=3", id="TS-06-between-members"),
    pytest.param(" foo=1", "foo=1", id="TS-06-leading-space"),
    pytest.param("\tfoo=1 \t", "foo=1", id="TS-06-tabs-at-both-ends"),
    pytest.param(MEMBERS_32, MEMBERS_32, id="TS-08-32-members"),
    pytest.param([MEMBERS_32, ""], MEMBERS_32, id="TS-12-empty-header-does-not-count"),
    pytest.param("," + MEMBERS_32.replace(",", ",,") + ",", MEMBERS_32, id="TS-12-empty-ones-do-not-count"),
    pytest.param("a-b_c*d/e@f=1", "a-b_c*d/e@f=1", id="TS-13-every-kind-of-character"),
    pytest.param("1a=1", "1a=1", id="TS-13-digit-first"),
    pytest.param("0=1", "0=1", id="TS-13-one-digit"),
    pytest.param(f"{LONGEST_KEY}=1", f"{LONGEST_KEY}=1", id="TS-13-256-characters"),
    pytest.param("foo@=1,bar=2", "foo@=1,bar=2", id="TS-14-at-sign-last"),
    pytest.param("foo@@bar=1", "foo@@bar=1", id="TS-14-two-at-signs"),
    pytest.param("foo@bar@baz=1", "foo@bar@baz=1", id="TS-14-two-at-signs-apart"),
    pytest.param(f"{'t' * 242}@v=1", f"{'t' * 242}@v=1", id="TS-14-tenant-longer-than-level-1-has-it"),
    pytest.param("t@vvvvvvvvvvvvvvv=1", "t@vvvvvvvvvvvvvvv=1", id="TS-14-system-longer-than-level-1-has-it"),
    pytest.param(f"foo={LONGEST_VALUE}", f"foo={LONGEST_VALUE}", id="TS-16-256-characters"),
    pytest.param("foo= ~!\"#'+-<>", "foo= ~!\"#'+-<>", id="TS-16-printable"),
    pytest.param("foo=  1", "foo=  1", id="TS-17-leading-spaces-belong-to-the-value"),
    pytest.param("foo=1  ", "foo=1", id="TS-17-trailing-spaces-do-not"),
    pytest.param("foo= a b ,bar=2", "foo= a b,bar=2", id="TS-17-inner-spaces"),
    pytest.param("foo=1,foo=1", "foo=1", id="TS-18-same-member-twice"),
    pytest.param("foo=1,foo=2", "foo=1", id="TS-18-left-most-stays"),
    pytest.param(["foo=1", "bar=2,foo=2"], "foo=1,bar=2", id="TS-18-left-most-of-two-headers"),
    pytest.param(f"a={'v' * 250},b={'w' * 256}", f"a={'v' * 250},b={'w' * 256}", id="TS-20-511-characters"),
    pytest.param(LARGEST, LARGEST, id="TS-21-the-largest-valid-list"),
    pytest.param(LARGEST.ljust(MAX_LENGTH), LARGEST, id="TS-21-as-many-characters-as-are-looked-at"),
    pytest.param("ot=th:0;rv:6e6d1a75832a2f,congo=t61", "ot=th:0;rv:6e6d1a75832a2f,congo=t61", id="TS-25"),
    pytest.param("z=1,a=2,m=3", "z=1,a=2,m=3", id="MU-09-order"),
]

REFUSED = [
    pytest.param(MEMBERS_33, id="TS-09-33-members"),
    pytest.param([MEMBERS_32, "k32=v"], id="TS-09-33-members-in-two-headers"),
    pytest.param(MEMBERS_32 + ",k00=v", id="TS-09-33-members-as-received-two-the-same"),
    pytest.param(f"{LONGEST_KEY}k=1", id="TS-13-257-characters"),
    pytest.param("FOO=1", id="TS-13-upper-case"),
    pytest.param("foo.bar=1", id="TS-13-dot"),
    pytest.param("foo =1", id="TS-13-space-before-equals"),
    pytest.param("foo\t=1", id="TS-13-tab-before-equals"),
    pytest.param("_a=1", id="TS-13-underscore-first"),
    pytest.param("-a=1", id="TS-13-dash-first"),
    pytest.param("=1", id="TS-13-no-key"),
    pytest.param("f\u00f6o=1", id="TS-13-not-ascii"),
    pytest.param("\u0661=1", id="TS-13-digit-of-another-script"),
    pytest.param("@foo=1,bar=2", id="TS-14-at-sign-first"),
    pytest.param(f"foo={LONGEST_VALUE}v", id="TS-16-257-characters"),
    pytest.param("foo=,bar=3", id="TS-16-no-value"),
    pytest.param("foo=  ", id="TS-16-only-spaces"),
    pytest.param("foo", id="TS-16-no-equals"),
    pytest.param("foo=bar=baz", id="TS-16-two-equals"),
    pytest.param("foo=1\t2", id="TS-16-tab"),
    pytest.param("foo=\t1", id="TS-16-leading-tab"),
    pytest.param("foo=\x7f", id="TS-16-delete"),
    pytest.param("foo=\u00e9", id="TS-16-not-ascii"),
    pytest.param("foo=1\n", id="TS-06-trailing-newline"),
    pytest.param("foo=1\r\n", id="TS-06-trailing-crlf"),
    pytest.param("\u00a0foo=1", id="TS-06-no-break-space"),
    pytest.param("\x0bfoo=1", id="TS-06-vertical-tab"),
    pytest.param("foo=1,\x0c", id="TS-11-form-feed-is-no-white-space"),
    pytest.param(["foo=1", "bar"], id="TS-19-bad-member-in-another-header"),
    pytest.param(["foo=1", f"{LONGEST_KEY}k=1"], id="TS-19-long-key-in-another-header"),
    pytest.param("a=1".ljust(MAX_LENGTH + 1), id="SE-03-more-characters-than-are-looked-at"),
    pytest.param(",".ljust(MAX_LENGTH + 1, ","), id="SE-03-empty-members-without-end"),
]

TRUNCATED = [
    pytest.param(566, ["a", "big", "c", "d", "e"], id="fits"),
    pytest.param(512, ["a", "big", "d", "e"], id="right-most-long-entry-goes-first"),
    pytest.param(300, ["a", "d", "e"], id="then-the-other-long-entry"),
    pytest.param(228, ["a", "d", "e"], id="fits-exactly"),
    pytest.param(200, ["a", "d"], id="then-from-the-end"),
    pytest.param(0, [], id="nothing-fits"),
    pytest.param(-1, [], id="less-than-nothing"),
]

HUGE = [
    pytest.param(",", id="empty-members"),
    pytest.param(" ", id="spaces"),
    pytest.param("a", id="one-key"),
    pytest.param("a=1,", id="members"),
    pytest.param("a=", id="equals-signs"),
]


@pytest.mark.parametrize(("header", "written"), ACCEPTED)
def test_a_valid_list_is_read_and_written(header: str | list[str], written: str) -> None:
    assert TraceState.parse(header).to_header() == written


@pytest.mark.parametrize("header", REFUSED)
def test_an_invalid_list_is_refused_as_a_whole(header: str | list[str]) -> None:
    """TS-09, TS-19: no part of it is kept."""
    with pytest.raises(InvalidTraceStateError):
        TraceState.parse(header)


@pytest.mark.parametrize("header", [b"foo=1", [b"foo=1"], ["foo=1", None], None, 7])
def test_a_header_that_is_not_text_is_refused(header: object) -> None:
    with pytest.raises(InvalidTraceStateError, match="not text"):
        TraceState.parse(header)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_headers_may_come_from_a_generator() -> None:
    """TS-05."""
    assert TraceState.parse(header for header in ("foo=1", "bar=2")).to_header() == "foo=1,bar=2"


@pytest.mark.parametrize("header", ["s3cret", "ok=1,s3cret=\x00", "s3cret=1,".ljust(40_000, "s")])
def test_the_reason_of_a_refusal_repeats_nothing_that_was_received(header: str) -> None:
    """P-14: it ends up in a log."""
    with pytest.raises(InvalidTraceStateError) as caught:
        TraceState.parse(header)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("piece", HUGE)
def test_a_megabyte_is_refused_at_once(piece: str) -> None:
    """SE-03, P-14: without looking at its members."""
    header = piece * (2**20 // len(piece))
    start = time.perf_counter()
    with pytest.raises(InvalidTraceStateError, match="characters"):
        TraceState.parse(header)
    assert time.perf_counter() - start < 0.25


@pytest.mark.parametrize("piece", HUGE)
def test_the_longest_header_that_is_looked_at_takes_little_time(piece: str) -> None:
    """SE-03."""
    header = piece * (MAX_LENGTH // len(piece))
    start = time.perf_counter()
    with contextlib.suppress(InvalidTraceStateError):
        TraceState.parse(header)
    assert time.perf_counter() - start < 0.25


@pytest.mark.parametrize("state", [TraceState(), TraceState.parse(""), TraceState.EMPTY])
def test_an_empty_one_is_false_and_written_as_nothing(state: TraceState) -> None:
    """TS-11: "" is to be sent as no header."""
    assert not state
    assert len(state) == 0
    assert state.to_header() == ""
    assert state == TraceState.EMPTY


def test_it_reads_like_a_mapping() -> None:
    state = TraceState.parse("rojo=1,congo=2")
    assert state["rojo"] == "1"
    assert state.get("congo") == "2"
    assert state.get("other") is None
    assert state.get("other", "none") == "none"
    assert "rojo" in state
    assert "other" not in state
    assert list(state) == ["rojo", "congo"]
    assert list(state.items()) == [("rojo", "1"), ("congo", "2")]
    assert len(state) == 2
    assert state


def test_a_key_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        TraceState()["other"]


@pytest.mark.parametrize("members", [{"rojo": "1", "congo": "2"}, [("rojo", "1"), ("congo", "2")]])
def test_it_is_made_from_members_in_their_order(members: dict[str, str] | list[tuple[str, str]]) -> None:
    assert TraceState(members).to_header() == "rojo=1,congo=2"


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        pytest.param([("Foo", "1")], "key 'Foo' must be 1 to 256", id="TS-13-bad-key"),
        pytest.param([("", "1")], "key '' must be", id="TS-13-no-key"),
        pytest.param([("foo\n", "1")], "key 'foo", id="TS-13-trailing-newline"),
        pytest.param([("K" * 9999, "1")], "KKK must be", id="TS-13-long-key"),
        pytest.param([(7, "1")], "key 7 must be", id="TS-13-not-text"),
        pytest.param([("foo", "")], "value of tracestate key 'foo' must be", id="TS-16-no-value"),
        pytest.param([("foo", "1 ")], "value of tracestate key 'foo' must be", id="TS-16-trailing-space"),
        pytest.param([("foo", "1\n")], "value of tracestate key 'foo' must be", id="TS-16-trailing-newline"),
        pytest.param([("foo", "a,b=c")], "value of tracestate key 'foo' must be", id="TS-16-another-member"),
        pytest.param([("foo", 1)], "value of tracestate key 'foo' must be", id="TS-16-not-text"),
        pytest.param([("foo", "1"), ("foo", "2")], "key 'foo' is there twice", id="TS-18-twice"),
        pytest.param([(f"k{number}", "v") for number in range(33)], "at most 32", id="TS-08-33-members"),
    ],
)
def test_bad_members_of_our_own_are_refused_in_one_sentence(members: object, sentence: str) -> None:
    with pytest.raises(InvalidTraceStateError, match=sentence) as caught:
        TraceState(members)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("header", "key", "value", "written"),
    [
        pytest.param("", "n", "0", "n=0", id="MU-14-first"),
        pytest.param("a=1,b=2", "n", "0", "n=0,a=1,b=2", id="MU-10-added-to-the-left"),
        pytest.param("a=1,b=2,c=3", "b", "9", "b=9,a=1,c=3", id="MU-11-changed-and-moved-to-the-left"),
        pytest.param("a=1,b=2", "a", "7", "a=7,b=2", id="MU-10-never-twice"),
        pytest.param("a=1,b=2", "b", "2", "b=2,a=1", id="MU-11-same-value-moves-too"),
        pytest.param("a= 1", "b", " 2", "b= 2,a= 1", id="TS-17-leading-spaces"),
        pytest.param(
            MEMBERS_32, "z", "1", "z=1," + MEMBERS_32.removesuffix(",k31=v"), id="TS-10-right-most-goes"
        ),
        pytest.param(
            MEMBERS_32, "k31", "v", "k31=v," + MEMBERS_32.removesuffix(",k31=v"), id="TS-10-none-goes"
        ),
    ],
)
def test_set_puts_the_member_first(header: str, key: str, value: str, written: str) -> None:
    assert TraceState.parse(header).set(key, value).to_header() == written


@pytest.mark.parametrize(("key", "value"), [("Foo", "1"), ("foo", ""), ("foo", "a,b"), ("foo", "1 ")])
def test_set_refuses_what_the_grammar_does_not_allow(key: str, value: str) -> None:
    """TS-13, TS-16."""
    with pytest.raises(InvalidTraceStateError):
        TraceState().set(key, value)


@pytest.mark.parametrize(
    ("key", "written"),
    [
        pytest.param("b", "a=1,c=3", id="MU-12-there"),
        pytest.param("other", "a=1,b=2,c=3", id="MU-12-not-there"),
    ],
)
def test_delete_keeps_the_others_in_their_order(key: str, written: str) -> None:
    assert TraceState.parse("a=1,b=2,c=3").delete(key).to_header() == written


def test_nothing_changes_the_original() -> None:
    state = TraceState.parse("a=1,b=2")
    state.set("c", "3")
    state.set("a", "9")
    state.delete("a")
    state.truncate(3)
    assert state.to_header() == "a=1,b=2"


@pytest.mark.parametrize("name", ["members", "value"])
def test_it_takes_no_attributes(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(TraceState(), name, 1)


@pytest.mark.parametrize(("limit", "keys"), TRUNCATED)
def test_truncate_drops_whole_entries_long_ones_first(limit: int, keys: list[str]) -> None:
    """TS-22."""
    state = TraceState({"a": "v" * 20, "big": "v" * 200, "c": "v" * 130, "d": "v" * 100, "e": "v" * 100})
    assert len(state.to_header()) == 566
    truncated = state.truncate(limit)
    assert list(truncated) == keys
    assert len(truncated.to_header()) <= max(limit, 0)


@pytest.mark.parametrize(("length", "kept"), [(128, ["a"]), (129, ["b"])])
def test_an_entry_is_long_above_128_characters(length: int, kept: list[str]) -> None:
    """TS-22: key, equals sign and value together."""
    state = TraceState([("a", "v" * (length - 2)), ("b", "1")])
    assert list(state.truncate(length)) == kept


def test_truncate_gives_the_same_one_when_it_fits() -> None:
    state = TraceState.parse("a=1")
    assert state.truncate(3) is state


def test_two_are_equal_with_the_same_members_in_the_same_order() -> None:
    """MU-09: the order says who changed it last."""
    state = TraceState.parse("a=1,b=2")
    assert state == TraceState([("a", "1"), ("b", "2")])
    assert hash(state) == hash(TraceState([("a", "1"), ("b", "2")]))
    assert state != TraceState.parse("b=2,a=1")
    assert state != TraceState.parse("a=1")
    assert state != "a=1,b=2"


def test_it_can_be_copied_and_pickled() -> None:
    state = TraceState.parse("a=1,b=2")
    assert copy.deepcopy(state) == state
    assert pickle.loads(pickle.dumps(state)) == state  # noqa: S301


def test_a_repr_shows_the_header_and_is_never_huge() -> None:
    assert repr(TraceState()) == "<TraceState empty>"
    assert repr(TraceState.parse("rojo=1, congo=2")) == "<TraceState rojo=1,congo=2>"
    assert len(repr(TraceState.parse(LARGEST))) < 160
