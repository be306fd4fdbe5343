"""The one context variable, and the scope that sets and restores it.

Private: `TraceContext.get`, `set`, `clear` and `use` are the public side.

What a `contextvars.Context` holds is a plain context, or the innermost scope that was opened in it (or in the
Context that it is a copy of), which knows what was held before it.

Another library with a current context of its own may take part: then it is told of all that happens here, and
what it says is current is so here.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from spakky.tracing.baggage import Baggage
    from spakky.tracing.context import TraceContext


__all__ = ["ICounterpart", "Scope", "baggage_elsewhere", "current", "make_current", "take_part"]


class ICounterpart(Protocol):
    """The current context of another library."""

    def current(self) -> TraceContext | None:
        """Return what is current there, the very object if it was made current from here."""

    def baggage(self) -> Baggage:
        """Return the baggage that is current there, maybe without a context."""
        ...

    def enter(self, context: TraceContext | None, /) -> Callable[[], None]:
        """Make *context* current there too; return what makes current again what was so before."""
        ...


_counterpart: ICounterpart | None = None


def take_part(counterpart: ICounterpart | None) -> None:
    """Let another library's context and ours be one from now on; `None` parts them.

    What is current here becomes current there, as if it had been made so just now.
    """
    global _counterpart  # noqa: PLW0603 - the one process-wide setting
    _counterpart = counterpart
    if counterpart is None or (context := _current_here()) is None:
        return
    held = _held.get()
    for scope in reversed(_open_scopes()):
        scope.restore_elsewhere = counterpart.enter(scope.context)
    if not isinstance(held, Scope):
        counterpart.enter(context)


class Scope:
    """Makes a context current while it is open, and puts back what was current before when it is closed.

    A scope may be closed by another task or thread than the one that opened it, and scopes of one thread may
    be closed in any order: the `contextvars.Context` in which it was opened gets back what was current there,
    at the latest when somebody asks; every other Context keeps what it has. Closing twice is closing once.

    Attributes:
        context: What is current while the scope is open; `None` for no trace.
        is_open: Whether it was opened and is not closed yet.
        before: What its Context held when it was opened, less what was closed since; `None` after it is out.
        restore_elsewhere: Makes current again what was so in another library then, if one took part.
    """

    __slots__ = ("_token", "_was_opened", "before", "context", "is_open", "restore_elsewhere")

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context
        self.is_open = False
        self._was_opened = False
        self.before: _Held = None
        self.restore_elsewhere: Callable[[], None] | None = None
        self._token: Token[_Held] | None = None

    def open(self) -> Self:
        """Make the context current.

        Raises:
            WrongUseError: It was opened before.
        """
        if self._was_opened:
            message = "a scope is opened once: call TraceContext.use() again for another block"
            raise WrongUseError(message)
        _take_out_closed()
        self.is_open = self._was_opened = True
        self.before = _held.get()
        self._token = _held.set(self)
        if _counterpart is not None:
            self.restore_elsewhere = _counterpart.enter(self.context)
        return self

    def close(self) -> None:
        """Put back what was current when the scope was opened."""
        if self.is_open:
            self.is_open = False
            self.take_out()

    def take_out(self) -> bool:
        """Take this closed scope out of what this Context holds; tell whether it was opened here.

        Only a token tells in which Context it was made: by whether it can be reset.
        """
        token, held = self._token, _held.get()
        if token is None:
            return False
        try:
            _held.reset(token)
        except (ValueError, RuntimeError):  # made in another Context; used there in this very moment
            return False
        if _scope_of(held) is self:
            held = self.before  # not what the token restored: that may be a scope that was taken out since
            if self.restore_elsewhere is not None:
                self.restore_elsewhere()
        else:
            self._take_out_below(_scope_of(held))
        _held.set(held)
        self._token = self.before = self.restore_elsewhere = None
        return True

    def _take_out_below(self, above: Scope | None) -> None:
        """Let the scope right above this one put back what was before this one; start to look at *above*."""
        while above is not None and above.below is not self:
            above = above.below
        if above is not None:
            above.before = self.before
            above.restore_elsewhere = self.restore_elsewhere

    @property
    def below(self) -> Scope | None:
        """The scope in which this one was opened, `None` if there was none."""
        return _scope_of(self.before)

    def __enter__(self) -> TraceContext | None:
        return self.open().context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _SetInside(NamedTuple):
    """What `make_current` made current inside of a scope."""

    context: TraceContext | None
    scope: Scope


_Held: TypeAlias = "TraceContext | Scope | _SetInside | None"

_held: Final[ContextVar[_Held]] = ContextVar("spakky.tracing", default=None)


def current() -> TraceContext | None:
    """Return the current context, `None` outside any trace."""
    context = _current_here()
    return context if _counterpart is None else _counterpart.current()


def _current_here() -> TraceContext | None:
    held = _held.get()
    while isinstance(held, (Scope, _SetInside)):
        scope = held.scope if isinstance(held, _SetInside) else held
        if scope.is_open:
            return held.context
        if not scope.take_out():  # a task or thread that was started inside the scope keeps what it inherited
            _held.set(held.context)
        held = _held.get()
    return held


def baggage_elsewhere() -> Baggage | None:
    """Return the baggage that is current in another library, `None` if none takes part."""
    return None if _counterpart is None else _counterpart.baggage()


def make_current(context: TraceContext | None) -> None:
    """Make *context* current until something else is, or until the scope around it is closed."""
    scope = _scope_of(_held.get())
    _held.set(context if scope is None else _SetInside(context, scope))
    if _counterpart is not None:
        _counterpart.enter(context)


def _scope_of(held: _Held) -> Scope | None:
    """Return the innermost scope of what a Context holds."""
    if isinstance(held, _SetInside):
        return held.scope
    return held if isinstance(held, Scope) else None


def _open_scopes() -> list[Scope]:
    """Return the open scopes of this Context, the innermost one first."""
    found: list[Scope] = []
    scope = _scope_of(_held.get())
    while scope is not None:
        if scope.is_open:
            found.append(scope)
        scope = scope.below
    return found


def _take_out_closed() -> None:
    """Take out the scopes of this Context that were closed elsewhere, so that they do not pile up."""
    _current_here()
    above = _scope_of(_held.get())
    while above is not None and (below := above.below) is not None:
        if below.is_open:
            above = below
        elif not below.take_out():
            return
