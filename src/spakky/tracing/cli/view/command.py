"""The command `view`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.text import Text

from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.terminal import console, print_line, printable
from spakky.tracing.cli.view.choice import Choice
from spakky.tracing.cli.view.page import page
from spakky.tracing.cli.view.spans import STANDARD_INPUT, Reading, read
from spakky.tracing.cli.view.timeline import ASCII, UNICODE
from spakky.tracing.cli.view.traces import traces_of
from spakky.tracing.cli.view.tree import Tree
from spakky.tracing.cli.view.words import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from spakky.tracing.cli.view.traces import Trace

__all__ = ["view"]

_TRACES: Final = 20
_TRACES_OF_A_PAGE: Final = 200
_SPANS: Final = 200
_PREFIX: Final = re.compile(r"[0-9a-f]{1,32}")
_AT_LEAST_ONE: Final = click.IntRange(min=1)


def _prefixes(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    prefixes = tuple(prefix.lower() for prefix in given)
    for prefix in prefixes:
        if not _PREFIX.fullmatch(prefix):
            message = (
                f"{printable(prefix)} is not the beginning of a trace id, which is 32 hexadecimal digits"
            )
            raise click.BadParameter(message)
    return prefixes


@click.command
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--trace",
    "prefixes",
    multiple=True,
    metavar="ID",
    callback=_prefixes,
    help="Only the trace whose id begins so; may be repeated.",
)
@click.option("--errors", is_flag=True, help="Only traces in which a span failed.")
@click.option(
    "--slowest", type=_AT_LEAST_ONE, metavar="N", help="The N traces that took longest, the slowest first."
)
@click.option("--last", type=_AT_LEAST_ONE, metavar="N", help="The N traces that started last.")
@click.option(
    "--all", "everything", is_flag=True, help="All traces with all their spans, also in a terminal."
)
@click.option("--html", metavar="FILE", help="Write them as a page for a browser instead.")
def view(  # noqa: PLR0913 - click passes one for each option
    files: Sequence[str],
    *,
    prefixes: Sequence[str],
    errors: bool,
    slowest: int | None,
    last: int | None,
    everything: bool,
    html: str | None,
) -> None:
    """Draw recorded spans as trees with a time line.

    FILE has spans as SPAKKY_TRACING_RECORD=FILE records them, or OTLP/JSON as the file exporters of
    OpenTelemetry write it; - is standard input. Files of several services are drawn together.

    A terminal shows the last 20 traces, and 200 spans of each. Into a pipe goes everything, one line a span.
    """
    _check(files, slowest, last, html, everything=everything)
    output = console()
    reading = read(files)
    _warn(reading)
    traces = traces_of(reading.spans)
    most = None if everything or prefixes or slowest or last else _usual(output, html)
    choice = Choice(prefixes=prefixes, only_failed=errors, slowest=slowest, last=last or most)
    shown = choice.of(traces)
    if html is None:
        _print(output, shown, traces, None if everything or not output.is_terminal else _SPANS)
    else:
        _write(html, shown, files)
    for sentence in _sum(reading, traces, shown, most, html):
        print_line(output, Text(sentence))


def _check(
    files: Sequence[str], slowest: int | None, last: int | None, html: str | None, *, everything: bool
) -> None:
    if sum([slowest is not None, last is not None, everything]) > 1:
        message = "--slowest, --last and --all exclude each other."
        raise click.UsageError(message)
    if html is not None and any(_is_same(html, file) for file in files):
        message = f"{html} is one of the files to read: give --html another name."
        raise Refusal(message)


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


def _usual(output: Console, html: str | None) -> int | None:
    """Return how many traces are shown unless it is said."""
    if html is not None:
        return _TRACES_OF_A_PAGE
    return _TRACES if output.is_terminal else None


def _warn(reading: Reading) -> None:
    """Say what was passed over."""
    for sentence in [*reading.without_spans, *map(str, reading.bad)]:
        click.echo(printable(sentence), err=True)
    if (others := reading.bad_count - len(reading.bad)) > 0:
        click.echo(f"and {count(others, 'more', 'more')}", err=True)


def _print(output: Console, shown: Sequence[Trace], traces: Sequence[Trace], most: int | None) -> None:
    tree = Tree(
        {trace.trace_id for trace in traces},
        width=output.width if output.is_terminal else None,
        signs=UNICODE if UNICODE.are_known_to(output.encoding) else ASCII,
        most=most,
    )
    for trace in shown:
        for line in tree.draw(trace):
            print_line(output, line)
        print_line(output, Text())


def _write(html: str, shown: Sequence[Trace], files: Sequence[str]) -> None:
    names = ["standard input" if file == STANDARD_INPUT else Path(file).name for file in files]
    text = page(shown, title=f"Traces of {printable(', '.join(names))}")
    try:  # half a surrogate pair, which JSON may have, has no place in UTF-8
        Path(html).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        message = f"{html} cannot be written: {error.strerror}."
        raise Refusal(message) from error


def _sum(
    reading: Reading, traces: Sequence[Trace], shown: Sequence[Trace], most: int | None, html: str | None
) -> Iterator[str]:
    """Yield sentences on what there is in all, and what of it was shown."""
    spans = [span for trace in traces for span in trace.spans]
    said = [
        count(len(traces), "trace"),
        count(len(spans), "span"),
        count(len({span.process for span in spans}), "process", "processes"),
        count(sum(span.has_failed for span in spans), "failure"),
        *([count(reading.bad_count, "bad line")] if reading.bad_count else []),
    ]
    yield f"Read: {', '.join(said)}."
    if html is not None:
        yield f"Written: {count(len(shown), 'trace')}, to {printable(html)}."
    elif len(shown) < len(traces):
        yield f"Shown: {len(shown) or 'none'} of the traces."
    if most is not None and len(shown) == most < len(traces):
        yield "Others: --last N, --slowest N, --errors, --trace ID, --all."
