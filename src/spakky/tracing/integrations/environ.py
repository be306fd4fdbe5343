"""Environment variables: a program goes on with the trace of the process that started it.

Usage:

    subprocess.run(["backup", "orders"], env=environ.headers())  # also `Popen`, asyncio, `os.execve`

    with environ.process():  # in the program that is started
        main()

Facts:

- The variables are `TRACEPARENT`, `TRACESTATE` and `BAGGAGE`, as OpenTelemetry specifies them. Nothing reads
  or writes them but these calls, and `os.environ` is never changed.
- Outside of any trace a child gets what this process was started with, if that is valid, or else a new trace.
- `multiprocessing` gives a child no environment of its own: hand `environ.headers({})` over as an argument,
  and give it to `process`.
- Who may look at a process may read its environment, and so its baggage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.process import Processing
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.environ import CARRIER
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Unpack

    from spakky.tracing.boundaries.options import ReceiveOptions, SendOptions
    from spakky.tracing.context import TraceContext

__all__ = ["context_from", "headers", "process"]

_Environment = Mapping[Any, Any]  # of `str`, or of `bytes`


def _program(environment: _Environment) -> str:
    """Return the name of this program; an environment does not say whose it is."""
    del environment
    return Path(sys.argv[0]).name or "python"


_CLIENT: Final[Client[_Environment, dict[str, str]]] = Client(
    system="environ",
    carrier=CARRIER,
    message_type=Mapping,
    message_name="environment",
    headers=lambda environment: environment,
    destination=_program,
    name=lambda environment: f"run {_program(environment)}",
)
_VERBS: Final = Verbs(_CLIENT)


def headers(existing: _Environment | None = None, **options: Unpack[SendOptions]) -> dict[str, str]:
    """Return the environment for a child process: a copy of *existing*, and the current context.

    Outside of any trace a valid context in *existing* stays as it is, and otherwise a new trace starts.

    Args:
        existing: The variables of the child, `str` or `bytes`; `None` for those of this process, as for
            `subprocess`. `{}` gives those of the context only.
        **options: See `SendOptions`.

    Returns:
        A new dict.

    Raises:
        WrongUseError: *existing* is no mapping, or an option is not known.
    """
    return _VERBS.headers(os.environ if existing is None else existing, **options)


def context_from(
    environment: _Environment = os.environ, **options: Unpack[ReceiveOptions]
) -> TraceContext | None:
    """Return the context that an environment carries, `None` if there is none that can be used.

    Args:
        environment: Variables, `str` or `bytes`; those of this process unless given. Nothing is made current.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: *environment* is no mapping, or an option is not known.
    """
    return _VERBS.context_from(environment, **options)


def process(
    environment: _Environment = os.environ, **options: Unpack[ReceiveOptions]
) -> Processing[_Environment]:
    """Return a `with` block for all that a program does: a child of who started it, or else a new trace.

    `sys.exit()` in the block ends it as `ok`; with a message or another status than 0, as `error`.

    Args:
        environment: Variables, `str` or `bytes`; those of this process unless given.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: *environment* is no mapping, or an option is not known.
    """
    receiver = _VERBS.receiver(options)
    if not _CLIENT.recognizes(environment):
        message = f"this takes an environment, a mapping of names to values, got {type(environment).__name__}"
        raise WrongUseError(message)
    return _Program(receiver, [environment])


class _Program(Processing[_Environment]):
    """What a program does, which may end by `sys.exit`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            self.close("ok")
        super().__exit__(kind, error, trace)
