"""The command `explain`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from spakky.tracing.cli.explain.documents import document_of
from spakky.tracing.cli.explain.drawing import Drawing
from spakky.tracing.cli.headers.messages import Dump, message_of
from spakky.tracing.cli.headers.pasted import headers_of_argument
from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.terminal import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spakky.tracing.cli.headers.messages import Message

__all__ = ["explain"]

_FAULTS: Final = 1
_STANDARD_INPUT: Final = "-"
_EXAMPLE: Final = "give one such as 'traceparent: 00-...', or - to read lines from standard input"


@click.command(
    short_help="Say what a header means, and what is wrong with it.",
    epilog="Exits with 0 if all is valid, 1 if there is a fault, and 2 if there is no such header.",
)
@click.argument("headers", metavar="[HEADER]...", nargs=-1)
@click.option(
    "-H",
    "--header",
    "options",
    metavar="HEADER",
    multiple=True,
    help="A header, as curl takes it; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document instead.")
@click.pass_context
def explain(
    context: click.Context, headers: tuple[str, ...], options: tuple[str, ...], *, as_json: bool
) -> None:
    """Say what a traceparent, tracestate or baggage means, and what is wrong with it.

    HEADER is 'name: value', name=value or a bare value; several are taken as those of one message. - reads
    lines: what curl -v prints, or a dump of messages' headers.
    """
    if not (headers or options):
        sentence = f"there is nothing to explain: {_EXAMPLE}."
        raise Refusal(sentence)
    pasted = _Pasted((*headers, *options))
    has_faults = _write(pasted) if as_json else _draw(pasted)
    if has_faults:
        context.exit(_FAULTS)


class _Pasted:
    """What the arguments and standard input have.

    Attributes:
        reads_lines: Whether standard input is read.
        passed_over: How many arguments and lines had no header in them; complete after `messages`.
    """

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._arguments = [_as_utf_8(each) for each in arguments if each != _STANDARD_INPUT]
        self.reads_lines = len(self._arguments) < len(arguments)
        self.passed_over = 0

    def messages(self) -> Iterator[Message]:
        """Yield one message of all arguments, then those of standard input.

        Raises:
            Refusal: There are none.
        """
        is_any = False
        for message in self._messages():
            is_any = True
            yield message
        if not is_any:
            sentence = f"there is no traceparent, tracestate or baggage in it: {_EXAMPLE}."
            raise Refusal(sentence)

    def _messages(self) -> Iterator[Message]:
        found = [headers_of_argument(argument) for argument in self._arguments]
        self.passed_over = found.count([])
        if headers := [header for each in found for header in each]:
            yield message_of(headers)
        if self.reads_lines:
            dump = Dump()
            yield from dump.messages(_lines())
            self.passed_over += dump.passed_over


def _write(pasted: _Pasted) -> bool:
    """Write all messages as JSON; return whether there is a fault."""
    messages = list(pasted.messages())
    click.echo(document_of(messages, pasted.passed_over))
    return any(message.has_faults for message in messages)


def _draw(pasted: _Pasted) -> bool:
    """Draw all messages as they come; return whether there is a fault."""
    drawing = Drawing(console())
    count = with_faults = 0
    for message in pasted.messages():
        drawing.draw(message)
        count += 1
        with_faults += message.has_faults
    if count > 1:
        drawing.draw_sum(f"{count} messages, {with_faults or 'none'} of them with faults")
    if pasted.passed_over:
        what = "line" if pasted.reads_lines else "argument"
        drawing.draw_sum(f"{_counted(pasted.passed_over, what)} without such a header passed over")
    return with_faults > 0


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _as_utf_8(argument: str) -> str:
    """Return *argument* as lines are read, whatever the locale is."""
    return _decoded(os.fsencode(argument))


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; there are none if it is closed."""
    if sys.stdin is None:
        return
    for line in sys.stdin.buffer:
        yield _decoded(line).removesuffix("\n").removesuffix("\r")


def _decoded(data: bytes) -> str:
    """Return *data* as text; what is not UTF-8 becomes U+FFFD, as where headers are read."""
    return data.decode("utf-8", "replace")
