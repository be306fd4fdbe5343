"""The tracestate of a trace: what each tracing vendor on the way wants the next one to know.

Everything here follows W3C Trace Context Level 2: the grammar section 3.3.2, the limits section 3.3.3.1, the
mutations section 3.5. It is no place for application data; that is what baggage is for (section 3.3).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Final, cast, final

from spakky.tracing.error import InvalidTraceStateError

__all__ = ["MAX_LENGTH", "MAX_MEMBERS", "TraceState"]

# Section 3.3.2.2.1:  key = ( lcalpha / DIGIT ) 0*255( keychar )
# where keychar is lcalpha / DIGIT / "_" / "-" / "*" / "/" / "@"
_KEY: Final = r"[a-z0-9][a-z0-9_\-*/@]{0,255}"

# Section 3.3.2.2.2:  value = 0*255( chr ) nblk-chr ;  chr = %x20 / nblk-chr
# where nblk-chr is %x21-2B / %x2D-3C / %x3E-7E
_VALUE: Final = r"[\x20-\x2B\x2D-\x3C\x3E-\x7E]{0,255}[\x21-\x2B\x2D-\x3C\x3E-\x7E]"

# Section 3.3.2.1:  list = list-member 0*31( OWS "," OWS list-member )
# where list-member is ( key "=" value ) / OWS. White space is stripped before these are used, and they are
# used with fullmatch only, because `$` would let a final newline pass.
_KEY_PATTERN: Final = re.compile(_KEY)
_VALUE_PATTERN: Final = re.compile(_VALUE)
_MEMBER_PATTERN: Final = re.compile(f"({_KEY})=({_VALUE})")
_WHITE_SPACE: Final = " \t"
MAX_MEMBERS: Final = 32

MAX_LENGTH: Final = 32 * 1024
"""The most characters of received headers that are looked at, all headers together.

The largest valid list has 16,447 (32 members of 513, and 31 commas); as many again are left for white space
and empty members.
"""

_LONG_ENTRY: Final = 128
"""Entries longer than this are the first to go when a list is shortened (section 3.3.3.1)."""

_LONGEST_REPR: Final = 128


@final
class TraceState(Mapping[str, str]):
    """An immutable list of vendor members, the most recently changed one first.

    Two are equal when they have the same members in the same order. `TraceState()` is empty, is false, and is
    written as no header at all.

    Args:
        members: The members from left to right.

    Raises:
        InvalidTraceStateError: A key or a value is outside the grammar, a key is there twice, or there are
            more than 32 members.
    """

    __slots__ = ("_members",)

    EMPTY: ClassVar["TraceState"]
    """The one to use where there is no tracestate."""

    def __init__(self, members: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._members: dict[str, str] = {}
        pairs = cast("Mapping[str, str]", members).items() if isinstance(members, Mapping) else members
        for key, value in pairs:
            _check_member(key, value)
            if key in self._members:
                message = f"tracestate key {key!r:.60} is there twice (section 3.3.3 allows one)"
                raise InvalidTraceStateError(message)
            if len(self._members) == MAX_MEMBERS:
                message = f"a tracestate has at most {MAX_MEMBERS} members (section 3.3.2)"
                raise InvalidTraceStateError(message)
            self._members[key] = value

    @classmethod
    def parse(cls, header: str | Iterable[str]) -> "TraceState":
        """Read a received tracestate: one header, or several in the order in which they came.

        Nothing but white space and commas gives the empty one. Of members with the same key the left-most
        stays, which is the most recent. Beyond that it is all or nothing: one bad member refuses the list.

        Raises:
            InvalidTraceStateError: A member is outside the grammar of section 3.3.2.2, or there are more than
                32, or more than 32,768 characters. The message repeats nothing of what was received.
        """
        members = _read_members(_combine(header))
        return cls._of(members) if members else cls.EMPTY

    @classmethod
    def _of(cls, members: dict[str, str]) -> "TraceState":
        """Return a tracestate of members that are known to be good."""
        state = cls.__new__(cls)
        state._members = members  # noqa: SLF001  its own class
        return state

    def set(self, key: str, value: str) -> "TraceState":
        """Return a tracestate that starts with this member (section 3.5).

        The others keep their order; the right-most goes where there would be more than 32. Peers that know
        only Level 1 refuse a list for a key that starts with a digit or has several `@`: better add none.

        Raises:
            InvalidTraceStateError: The key or the value is outside the grammar.
        """
        _check_member(key, value)
        others = [member for member in self._members.items() if member[0] != key]
        return self._of(dict([(key, value), *others[: MAX_MEMBERS - 1]]))

    def delete(self, key: str) -> "TraceState":
        """Return a tracestate without *key*, which need not be there; other vendors' keys should stay."""
        if key not in self._members:
            return self
        return self._of({name: value for name, value in self._members.items() if name != key})

    def truncate(self, limit: int) -> "TraceState":
        """Return a tracestate whose header has at most *limit* characters (section 3.3.3.1).

        It drops whole entries: those of more than 128 characters first, then the others; of either the
        right-most first, and no more once the rest fits.
        """
        kept = dict(self._members)
        surplus = len(self.to_header()) - limit
        right_to_left = list(kept)[::-1]
        for key in sorted(right_to_left, key=self._is_short):  # stable: still right to left among each
            if surplus <= 0:
                break
            surplus -= len(key) + len(kept.pop(key)) + len("=,")
        return self if len(kept) == len(self._members) else self._of(kept)

    def _is_short(self, key: str) -> bool:
        return len(key) + len("=") + len(self._members[key]) <= _LONG_ENTRY

    def to_header(self) -> str:
        """Return the header value, without optional white space; "" is to be sent as no header."""
        return ",".join([f"{key}={value}" for key, value in self._members.items()])

    def __getitem__(self, key: str) -> str:
        """Return the value of *key*, with its leading spaces; KeyError when it is not there."""
        return self._members[key]

    def __contains__(self, key: object) -> bool:
        """Return whether *key* has a value."""
        return key in self._members

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys from left to right."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._members)

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same members in the same order."""
        if not isinstance(other, TraceState):
            return NotImplemented
        return list(self._members.items()) == list(other._members.items())

    def __hash__(self) -> int:
        """Return a hash of the members in their order."""
        return hash(tuple(self._members.items()))

    def __repr__(self) -> str:
        """Show the header, shortened where it is long."""
        header = self.to_header()
        shown = header if len(header) <= _LONGEST_REPR else header[:_LONGEST_REPR] + "..."
        return f"<TraceState {shown or 'empty'}>"


def _check_member(key: object, value: object) -> None:
    """Raise InvalidTraceStateError, which names the key, unless both are within the grammar."""
    if not isinstance(key, str) or not _KEY_PATTERN.fullmatch(key):
        rule = "1 to 256 of a-z 0-9 _ - * / @ and start with a letter or a digit (section 3.3.2.2.1)"
        message = f"tracestate key {key!r:.60} must be {rule}"
        raise InvalidTraceStateError(message)
    if not isinstance(value, str) or not _VALUE_PATTERN.fullmatch(value):
        rule = "1 to 256 printable ASCII characters, none of them ',' or '=', the last no space"
        message = f"the value of tracestate key {key!r:.60} must be {rule} (section 3.3.2.2.2)"
        raise InvalidTraceStateError(message)


def _combine(header: str | Iterable[str]) -> str:
    """Join several headers with commas (section 3.3.2), and refuse what is too long to be looked at."""
    try:
        combined = header if isinstance(header, str) else ",".join(header)
    except TypeError as error:
        message = "a tracestate header is not text"
        raise InvalidTraceStateError(message) from error
    if len(combined) > MAX_LENGTH:
        message = f"the tracestate has {len(combined)} characters, more than {MAX_LENGTH}"
        raise InvalidTraceStateError(message)
    return combined


def _read_members(combined: str) -> dict[str, str]:
    """Read a list (section 3.3.2.1); members that are empty or only white space do not count."""
    present = [member for text in combined.split(",") if (member := text.strip(_WHITE_SPACE))]
    if len(present) > MAX_MEMBERS:
        message = f"the tracestate has {len(present)} members, more than {MAX_MEMBERS} (section 3.3.2)"
        raise InvalidTraceStateError(message)
    members: dict[str, str] = {}
    for position, member in enumerate(present, start=1):
        found = _MEMBER_PATTERN.fullmatch(member)
        if found is None:
            message = f"member {position} of the tracestate is not key=value as section 3.3.2.2 has it"
            raise InvalidTraceStateError(message)
        members.setdefault(found[1], found[2])
    return members


TraceState.EMPTY = TraceState()
