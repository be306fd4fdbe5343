"""The one context variable, and the scope that sets and restores it.

Private: `TraceContext.get`, `set`, `clear` and `use` are the public side.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from spakky.tracing.context import TraceContext


__all__ = ["Scope", "current", "make_current"]


class Scope:
    """Makes a context current while it is open, and puts back what was current before when it is closed.

    A scope may be closed by another task or thread than the one that opened it, and scopes of one thread may
    be closed in any order: the `contextvars.Context` in which it was opened gets back what was current there,
    at the latest when somebody asks; every other Context keeps what it has. Closing twice is closing once.

    Attributes:
        context: What is current while the scope is open; `None` for no trace.
    """

    __slots__ = ("_before", "_is_open", "_token", "context")

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context
        self._before: TraceContext | Scope | None = None
        self._token: Token[TraceContext | Scope | None] | None = None
        self._is_open = False

    def open(self) -> Self:
        """Make the context current."""
        self._before = _held.get()
        self._is_open = True
        self._token = _held.set(self)
        return self

    def close(self) -> None:
        """Put back what was current when the scope was opened."""
        if not self._is_open:
            return
        self._is_open = False
        innermost = _held.get()
        if isinstance(innermost, Scope) and innermost is not self and innermost.leave_out(self):
            return
        self._restore()

    def resolve(self) -> TraceContext | None:
        """Return what is current in a Context that holds this scope."""
        if self._is_open:
            return self.context
        if self._restore():
            return current()
        return self.context  # a task or thread that was started inside the scope keeps what it inherited

    def _restore(self) -> bool:
        """Put back what was current before, in the Context that opened the scope; tell whether this is it."""
        if self._token is None:
            return False
        try:
            _held.reset(self._token)
        except ValueError:  # the token was made in another Context
            return False
        self._token = None
        if _held.get() is not self._before:
            _held.set(self._before)
        return True

    def leave_out(self, scope: Scope) -> bool:
        """Take *scope* out of what the open scopes above it will put back; tell whether it was there."""
        above: Scope = self
        while above._is_open:
            if above._before is scope:
                above._before = scope._before
                scope._token = None
                return True
            if not isinstance(above._before, Scope):
                return False
            above = above._before
        return False

    def __enter__(self) -> TraceContext | None:
        return self.open().context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_held: Final[ContextVar[TraceContext | Scope | None]] = ContextVar("spakky.tracing", default=None)


def current() -> TraceContext | None:
    """Return the current context, `None` outside any trace."""
    held = _held.get()
    return held.resolve() if isinstance(held, Scope) else held


def make_current(context: TraceContext | None) -> None:
    """Make *context* current until something else is, or until the scope around it is closed."""
    _held.set(context)
