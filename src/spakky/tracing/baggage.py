"""The baggage of a request: what the application wants every service on the way to know.

The grammar and the limits are W3C Baggage section 3.3, and every bare section number here is of that
document; that each key has one value is OpenTelemetry's baggage API, "Overview". Baggage reaches every
service behind this one, whoever runs it: put no secrets into it, and clear it before a send to where it must
not go.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Final, final
from urllib.parse import quote, unquote

from spakky.tracing.error import InvalidBaggageError

__all__ = ["MAX_BYTES", "MAX_LENGTH", "MAX_MEMBERS", "Baggage"]

# RFC 7230, section 3.2.6:  token = 1*tchar
_KEY: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"

# RFC 7230, section 3.2.3:  OWS = *( SP / HTAB )
_OWS: Final = r"[ \t]*+"

# Section 3.3.1:  value = *baggage-octet
# where baggage-octet is %x21 / %x23-2B / %x2D-3A / %x3C-5B / %x5D-7E
_VALUE: Final = r"[\x21\x23-\x2B\x2D-\x3A\x3C-\x5B\x5D-\x7E]*+"

# Section 3.3.1:  property = key OWS "=" OWS value / key OWS
_PROPERTY: Final = f"{_KEY}{_OWS}(?:={_OWS}{_VALUE})?+"

# Section 3.3.1:  list-member = key OWS "=" OWS value *( OWS ";" OWS property )
# Used with fullmatch only, because `$` would let a final newline pass. The quantifiers are possessive, as no
# character can belong to two neighbours: so a refusal takes linear time too.
_KEY_PATTERN: Final = re.compile(_KEY)
_PROPERTY_PATTERN: Final = re.compile(_PROPERTY)
_MEMBER_PATTERN: Final = re.compile(f"({_KEY}){_OWS}={_OWS}{_VALUE}(?:{_OWS};{_OWS}{_PROPERTY})*+")
_WHITE_SPACE: Final = " \t"

# Section 3.3.1.3: what is no baggage-octet must be percent-encoded, and so must "%". These need not, nor the
# letters, digits and "_.-~" that `quote` never encodes.
_UNENCODED: Final = "!#$&'()*+/:<=>?@[]^`{|}"

# Section 3.3.2: this much has to be propagated, and never a part of a member.
MAX_MEMBERS: Final = 64
MAX_BYTES: Final = 8192

MAX_LENGTH: Final = 32 * 1024
"""The most characters of received headers that are looked at: four times what has to be propagated."""

_KEYS_IN_REPR: Final = 8


@final
class Baggage(Mapping[str, str]):
    """An immutable mapping of keys to decoded values, of at most 64 members and 8192 bytes on the wire.

    Two are equal when they have the same keys, values and properties, in whatever order. `Baggage()` is
    empty, is false, and is written as no header at all. A member that was received and not set anew is
    written as it came, with its percent-encoding and properties; only white space around its parts is gone.

    Args:
        entries: Keys and their values, not encoded. Of the same key twice, the later one stays.

    Raises:
        InvalidBaggageError: A key is not a token, a value is not text, or they exceed the limits.
    """

    # Each key's whole member as it is on the wire, without white space: nothing is decoded until asked for.
    __slots__ = ("_members",)

    EMPTY: ClassVar["Baggage"]
    """The one to use where there is no baggage."""

    def __init__(self, entries: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._members: dict[str, str]
        if isinstance(entries, Baggage):
            self._members = entries._members  # noqa: SLF001  its own class
            return
        self._members = {key: _write_member(key, value) for key, value in dict(entries).items()}
        if _fitting(self._members) is not self._members:
            message = f"baggage has at most {MAX_MEMBERS} members and {MAX_BYTES} bytes (section 3.3.2)"
            raise InvalidBaggageError(message)

    @classmethod
    def parse(cls, header: str | Iterable[str]) -> "Baggage":
        """Read received baggage: one header, or several in the order in which they came. Never raises.

        Bad members are dropped and good ones kept; empty ones are nothing. Of the same key twice the later
        one stays, in the place of the first. Members are taken from the left as they fit the limits, each
        whole or not at all. Nothing usable gives the empty one.
        """
        return cls.parse_with_reason(header)[0]

    @classmethod
    def parse_with_reason(cls, header: str | Iterable[str]) -> tuple["Baggage", str | None]:
        """Do as `parse`, and return beside it what was dropped and why; None when all was kept.

        The reason is one sentence for a debug log, and repeats nothing of what was received.
        """
        try:
            combined = header if isinstance(header, str) else ",".join(header)
        except TypeError:
            return cls.EMPTY, "dropped all baggage: a header is not text"
        text = _shorten(combined)
        members, malformed = _read_members(text)
        kept = _fitting(members)
        reason = _explain(malformed, len(members) - len(kept), len(combined) - len(text))
        return (cls._of(kept) if kept else cls.EMPTY), reason

    @classmethod
    def _of(cls, members: dict[str, str]) -> "Baggage":
        """Return baggage of members that are known to be good and within the limits."""
        baggage = cls.__new__(cls)
        baggage._members = members  # noqa: SLF001  its own class
        return baggage

    def set(self, key: str, value: str, properties: Iterable[str] = ()) -> "Baggage":
        """Return baggage in which *key* has this value and these properties, and no earlier ones.

        The member becomes the last one, and always stays. Where it makes too much, others go: the right-most,
        which were set last, are kept as they fit.

        Args:
            key: A token (RFC 7230, section 3.2.6).
            value: Any text; it is percent-encoded here.
            properties: Each `name` or `name=value`, its value percent-encoded already.

        Raises:
            InvalidBaggageError: The key is not a token, the value not text that UTF-8 can encode, a property
                is malformed, or this member alone has more than 8192 bytes.
        """
        member = _write_member(key, value, properties)
        others = {name: text for name, text in self._members.items() if name != key}
        newest_first = {key: member, **dict(reversed(others.items()))}
        return self._of(dict(reversed(_fitting(newest_first).items())))

    def delete(self, key: str) -> "Baggage":
        """Return baggage without *key*, which need not be there."""
        if key not in self._members:
            return self
        return self._of({name: text for name, text in self._members.items() if name != key})

    def clear(self) -> "Baggage":
        """Return the empty baggage: for a send to where none may go."""
        return self.EMPTY

    def properties(self, key: str) -> tuple[str, ...]:
        """Return the properties of *key* as they are on the wire; none also when *key* is not there."""
        return tuple(self._members.get(key, "").split(";")[1:])

    def to_header(self) -> str:
        """Return the header value, within the limits; "" is to be sent as no header."""
        return ",".join(self._members.values())

    def __getitem__(self, key: str) -> str:
        """Return the decoded value of *key*; KeyError when it is not there.

        Octets that are not UTF-8 become U+FFFD (section 3.3.1.3); `+` is no space, and `%zz` stays as it is.
        """
        return unquote(self._members[key].partition("=")[2].partition(";")[0])

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
        """Return whether both have the same keys, values and properties."""
        if not isinstance(other, Baggage):
            return NotImplemented
        return self._meaning() == other._meaning()

    def __hash__(self) -> int:
        """Return a hash of keys, values and properties, whatever their order."""
        return hash(frozenset(self._meaning().items()))

    def _meaning(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {key: (self[key], self.properties(key)) for key in self._members}

    def __repr__(self) -> str:
        """Show the first keys and no values: these may be personal, and a repr ends up in logs."""
        keys = [f"{key:.40}" for key in list(self._members)[:_KEYS_IN_REPR]]
        more = f" and {len(self) - len(keys)} more" if len(self) > len(keys) else ""
        return f"<Baggage {', '.join(keys) or 'empty'}{more}>"


def _write_member(key: object, value: object, properties: Iterable[str] = ()) -> str:
    """Write a list-member from our own data; raises InvalidBaggageError, which names the key."""
    if not isinstance(key, str) or not _KEY_PATTERN.fullmatch(key):
        message = f"baggage key {key!r:.60} must be a token (RFC 7230, section 3.2.6)"
        raise InvalidBaggageError(message)
    member = ";".join([f"{key}={_encode(key, value)}", *_write_properties(key, properties)])
    if len(member) > MAX_BYTES:
        message = f"baggage key {key!r:.60} makes a member of {len(member)} bytes, more than {MAX_BYTES}"
        raise InvalidBaggageError(message)
    return member


def _encode(key: str, value: object) -> str:
    """Percent-encode a value (section 3.3.1.3)."""
    if not isinstance(value, str):
        message = f"the value of baggage key {key!r:.60} must be a str, not {type(value).__name__}"
        raise InvalidBaggageError(message)
    try:
        return quote(value, safe=_UNENCODED)
    except UnicodeEncodeError:
        message = f"the value of baggage key {key!r:.60} has a lone surrogate, which UTF-8 cannot encode"
        raise InvalidBaggageError(message) from None  # the cause would show the value


def _write_properties(key: str, properties: Iterable[str]) -> list[str]:
    """Check that each is a property (section 3.3.1.4), and take out its white space."""
    if isinstance(properties, str):
        message = f"the properties of baggage key {key!r:.60} must be a list or tuple of str, not one str"
        raise InvalidBaggageError(message)
    stripped = [text.strip(_WHITE_SPACE) for text in properties]
    if not all(map(_PROPERTY_PATTERN.fullmatch, stripped)):
        rule = "name or name=value, percent-encoded (section 3.3.1.4)"
        message = f"each property of baggage key {key!r:.60} must be {rule}"
        raise InvalidBaggageError(message)
    return [_without_white_space(text) for text in stripped]


def _without_white_space(text: str) -> str:
    """Take all of it out: in what has matched the grammar, none belongs to a key or a value."""
    return text.replace(" ", "").replace("\t", "")


def _shorten(combined: str) -> str:
    """Return the members that end within the first MAX_LENGTH characters, and no part of one."""
    if len(combined) <= MAX_LENGTH:
        return combined
    return combined[: MAX_LENGTH + 1].rpartition(",")[0]


def _read_members(text: str) -> tuple[dict[str, str], list[int]]:
    """Read the good members, and the positions of the bad ones."""
    members: dict[str, str] = {}
    malformed: list[int] = []
    for position, part in enumerate(text.split(","), start=1):
        member = part.strip(_WHITE_SPACE)
        if found := _MEMBER_PATTERN.fullmatch(member):
            members[found[1]] = _without_white_space(member)
        elif member:
            malformed.append(position)
    return members, malformed


def _fitting(members: dict[str, str]) -> dict[str, str]:
    """Return those that fit the limits (section 3.3.2), taken from the left; the same dict when all do."""
    room = MAX_BYTES + len(",")
    kept: dict[str, str] = {}
    for key, member in members.items():
        size = len(member) + len(",")
        if size <= room and len(kept) < MAX_MEMBERS:
            kept[key] = member
            room -= size
    return members if len(kept) == len(members) else kept


def _explain(malformed: list[int], surplus: int, unread: int) -> str | None:
    """Say what was dropped, in one sentence without any received text."""
    parts: list[str] = []
    if malformed:
        parts.append(f"malformed members: {len(malformed)}, the first is number {malformed[0]}")
    if surplus:
        parts.append(f"members above {MAX_MEMBERS} or above {MAX_BYTES} bytes: {surplus}")
    if unread:
        parts.append(f"characters above {MAX_LENGTH}, with the member that they cut: {unread}")
    return f"dropped from the baggage: {'; '.join(parts)}" if parts else None


Baggage.EMPTY = Baggage()
