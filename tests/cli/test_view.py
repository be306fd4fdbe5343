"""`view` as it is seen: in a terminal, piped, without colour, with what others have put into the spans."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len

from cli.running import Ended, in_terminal, piped
from cli.spans import MILLISECOND, START, TRACE, line_of, span_id, written

if TYPE_CHECKING:
    from pathlib import Path

GOOD = line_of(1)
OTHER = "b" * 32
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
WAY = [
    line_of(1, 99, name="POST /orders", kind="server", system="http", destination="/orders"),
    line_of(2, 1, name="send orders", kind="producer"),
    line_of(
        4,
        2,
        process="billing",
        queue_time_nano=2 * MILLISECOND,
        end_unix_nano=START + 8 * MILLISECOND,
        attempt=1,
    ),
    line_of(
        8,
        4,
        name="run pack",
        system="celery",
        destination="tasks",
        process="worker",
        attempt=2,
        outcome="error",
        error="shop.TooSmallError",
        is_redelivered=True,
        death_count=1,
        is_scheduled=True,
        links=[{"trace_id": OTHER, "span_id": span_id(7)}, {"trace_id": TRACE, "span_id": span_id(2)}],
        end_unix_nano=START + 10 * MILLISECOND,
    ),
]


def many(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Return a span of each of *count* traces, each slower than the one before."""
    return [
        line_of(n, trace_id=f"{n:032x}", end_unix_nano=START + 2 * n * MILLISECOND, **changes)
        for n in range(1, count + 1)
    ]


def plain(ended: Ended) -> list[str]:
    return [ESCAPES.sub("", line) for line in ended.output.splitlines()]


def shown(ended: Ended) -> list[int]:
    """Return the numbers of the traces of `many` that are shown."""
    return [int(found, 16) for found in re.findall(r"Trace ([0-9a-f]{32})", "\n".join(plain(ended)))]


# --- in a terminal


def test_a_trace_at_80_columns(tmp_path: Path) -> None:
    assert plain(in_terminal("view", written(tmp_path, *WAY))) == [
        "Trace 0af7651916cd43dd8448eb211c80319c",
        "2025-11-24 16:00:00.001 UTC, 9.0 ms, 4 spans, 3 processes, 1 failure",
        "",
        "process  span                         outcome  waited    took  0          9.0 ms",
        "shop     POST http /orders            ok               1.0 ms  ▓▓",
        "         │ parent 0000000000000063 is not in the files",
        "shop     └ send kafka orders          ok               1.0 ms    ▓▓",
        "billing    └ process kafka orders     ok       2.0 ms  4.0 ms    ░░░░▓▓▓▓▓▓▓",
        "worker       └ run pack celery tasks  error            2.0 ms               ▓▓▓▓",
        "                 attempt 2, shop.TooSmallError, redelivered, dead-lettered,",
        "                 started by a clock",
        "                 linked to 0000000000000007 of trace bbbbbbbb.., not in the",
        "                 files",
        "                 linked to 0000000000000002 of this trace",
        "",
        "Read: 1 trace, 4 spans, 3 processes, 1 failure.",
    ]


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_no_line_is_longer_than_the_terminal_and_nothing_is_lost(tmp_path: Path, columns: int) -> None:
    long = "注文" * 15 + " and " + "x" * 60
    chain = [line_of(n, n - 1, process=f"p{n}-" + "y" * 30) for n in range(20, 90)]
    path = written(tmp_path, *WAY, line_of(19, 8, destination=long, name=f"process {long}"), *chain)

    lines = plain(in_terminal("view", path, columns=columns))

    assert max(map(cell_len, lines)) <= columns
    words = "".join("".join(lines).replace("│", "").split())
    for word in (
        "TooSmallError",
        "redelivered",
        "dead-lettered",
        "startedbyaclock",
        "attempt2",
        "注文注文",
        "73:",
    ):
        assert word in words, word


def test_what_waited_is_said_where_there_is_no_column_for_it(tmp_path: Path) -> None:
    path = written(tmp_path, *WAY, line_of(9, 8, destination="a-destination-with-a-longer-name"))
    lines = plain(in_terminal("view", path))

    assert "waited" not in lines[3]
    assert any(line.endswith("waited 2.0 ms") for line in lines)


def test_at_140_columns_ids_of_spans_are_shown(tmp_path: Path) -> None:
    lines = plain(in_terminal("view", written(tmp_path, *WAY), columns=140))
    assert [line for line in lines if span_id(4) in line]


def test_levels_too_deep_to_draw_have_their_number(tmp_path: Path) -> None:
    path = written(tmp_path, *[line_of(n, n - 1 or None) for n in range(1, 3_001)])

    assert re.search(
        r"^shop +└ 2999: process kafka orders +[0-9a-f]{16}  ok ", piped("view", path).output, re.MULTILINE
    )
    assert "└ 150: process" in "\n".join(plain(in_terminal("view", path)))


def test_colour_is_for_terminals_and_can_be_switched_off(tmp_path: Path) -> None:
    path = written(tmp_path, *WAY)

    assert "\x1b[36m" in in_terminal("view", path).output
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", in_terminal("view", path, NO_COLOR="1").output)
    assert plain(in_terminal("view", path, NO_COLOR="1")) == plain(in_terminal("view", path))
    assert "\x1b" not in piped("view", path).output


def test_what_others_have_put_into_names_is_written_out(tmp_path: Path) -> None:
    hostile = "\x1b[31mred\x07\n[bold]x[/bold] :smile: \N{RIGHT-TO-LEFT OVERRIDE}\ud800"
    fields: dict[str, Any] = dict.fromkeys(["name", "system", "destination", "process"], hostile)
    path = written(tmp_path, line_of(1, error=hostile, outcome="error", **fields))

    for ended in (piped("view", path), in_terminal("view", path, columns=200, NO_COLOR="1")):
        text = re.sub(r"\x1b\[[0-9;]*m", "", ended.output)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert r"\x1b[31mred\x07\n[bold]x[/bold] :smile: \u202e\ud800" in text


def test_an_encoding_that_has_no_lines_gets_ascii(tmp_path: Path) -> None:
    path = written(tmp_path, *WAY, line_of(9, 8, name="J\xfcrgen"), line_of(9, 8, name="J\xfcrgen"))
    output = piped("view", path, PYTHONIOENCODING="ascii").output

    assert output.isascii()
    assert re.search(r"^billing    ` process kafka orders .* \.+#+ ", output, re.MULTILINE)
    assert r"J\xfcrgen" in output


# --- piped


def test_a_pipe_gets_one_line_a_span_with_all_there_is(tmp_path: Path) -> None:
    lines = piped("view", written(tmp_path, *WAY)).output.splitlines()

    assert lines[4:8] == [
        (
            "shop     POST http /orders            0000000000000001  ok               1.0 ms  ▓▓▓▓     "
            "                                 parent 0000000000000063 is not in the files"
        ),
        "shop     └ send kafka orders          0000000000000002  ok               1.0 ms      ▓▓▓▓▓",
        (
            "billing    └ process kafka orders     0000000000000004  ok       2.0 ms  4.0 ms      ░░░░░"
            "░░░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓           attempt 1"
        ),
        (
            "worker       └ run pack celery tasks  0000000000000008  error            2.0 ms           "
            "                      ▓▓▓▓▓▓▓▓▓  attempt 2, shop.TooSmallError, redelivered, dead-lettered"
            ", started by a clock; linked to 0000000000000007 of trace bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
            ", not in the files; linked to 0000000000000002 of this trace"
        ),
    ]


def test_notes_say_how_often_and_name_links_in_the_files(tmp_path: Path) -> None:
    linked = [{"trace_id": OTHER, "span_id": span_id(n)} for n in range(1, 6)]
    path = written(
        tmp_path,
        line_of(1, links=linked, death_count=3),
        line_of(2, 2),
        line_of(1, trace_id=OTHER),
    )

    complete, short = piped("view", path).output, "\n".join(plain(in_terminal("view", path)))

    assert f"dead-lettered 3 times; linked to {span_id(1)} of trace {OTHER}; linked to" in complete
    assert complete.count("linked to") == 5
    assert f"linked to {span_id(3)} of trace bbbbbbbb..\n" in short
    assert "and to 2 more spans\n" in short
    assert f"parent {span_id(2)} is below it" in complete


def test_spans_that_take_no_time_are_drawn(tmp_path: Path) -> None:
    moment = {"start_unix_nano": START, "end_unix_nano": START}
    output = piped("view", written(tmp_path, line_of(1, **moment), line_of(2, 1, **moment))).output
    assert output.count(" 0.0 ms  ▓\n") == 2


def test_long_times_have_words(tmp_path: Path) -> None:
    second = 1000 * MILLISECOND
    times = {
        "1.50 s": 1.5,
        "2 min 05 s": 125,
        "3 h 02 min": 3 * 3600 + 125,
        "4 d 03 h": 99 * 3600 + 9,
        "250 ms": 0.25,
    }
    lines = [
        line_of(n, start_unix_nano=START, end_unix_nano=START + int(took * second))
        for n, took in enumerate(times.values(), start=1)
    ]
    output = piped("view", written(tmp_path, *lines)).output
    assert all(f" {words}  ▓" in output for words in times)


# --- what is shown


def test_a_terminal_shows_the_last_20_traces_and_says_how_to_see_others(tmp_path: Path) -> None:
    path = written(tmp_path, *many(50))
    ended = in_terminal("view", path)

    assert shown(ended) == list(range(31, 51))
    assert plain(ended)[-3:] == [
        "Read: 50 traces, 50 spans, 1 process, no failures.",
        "Shown: 20 of the traces.",
        "Others: --last N, --slowest N, --errors, --trace ID, --all.",
    ]
    assert shown(in_terminal("view", "--all", path)) == list(range(1, 51))
    assert shown(piped("view", path)) == list(range(1, 51))


def test_a_terminal_shows_200_spans_of_a_trace(tmp_path: Path) -> None:
    path = written(tmp_path, *[line_of(n) for n in range(1, 252)])

    assert "… 51 more spans" in plain(in_terminal("view", path))
    assert "more spans" not in in_terminal("view", "--all", path).output + piped("view", path).output


def test_the_last_and_the_slowest_are_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, *reversed(many(5)), line_of(0, trace_id=f"{6:032x}"))

    assert shown(piped("view", "--last", "2", path)) == [4, 5]
    assert shown(piped("view", "--slowest", "3", path)) == [5, 4, 3]
    assert piped("view", "--last", "2", path).output.endswith("\nShown: 2 of the traces.\n")


def test_traces_are_chosen_by_the_beginning_of_their_ids(tmp_path: Path) -> None:
    path = written(tmp_path, line_of(1), line_of(2, trace_id=OTHER), line_of(3, trace_id="c" * 32))
    output = piped("view", "--trace", "0AF7", "--trace", OTHER, path).output

    assert re.findall(r"Trace (\w)", output) == ["0", "b"]


def test_only_traces_with_a_failure_are_shown(tmp_path: Path) -> None:
    path = written(tmp_path, *many(2), *many(0), line_of(3, trace_id=OTHER, outcome="rejected"))

    assert re.findall(r"Trace (\w)", piped("view", "--errors", path).output) == ["b"]
    without = piped("view", "--errors", "--trace", "0", path)
    assert (without.code, without.output.splitlines()[-1]) == (0, "Shown: none of the traces.")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trace", "abc"], "No trace begins with abc: without --trace all are shown."),
        (["--trace", "x\x1b[31m"], r"x\x1b[31m is not the beginning of a trace id"),
        (["--last", "0"], "0 is not in the range x>=1"),
        (["--last", "2", "--slowest", "2"], "--slowest, --last and --all exclude each other."),
        (["--html", "spans.jsonl"], "spans.jsonl is one of the files to read: give --html another name."),
        (["--html", "nowhere/page.html"], "nowhere/page.html cannot be written: No such file or directory."),
    ],
)
def test_what_cannot_be_done_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    ended = piped("view", *options, "spans.jsonl", folder=tmp_path)

    assert ended.code == 2
    assert said in ended.errors
    assert "Traceback" not in ended.errors


def test_no_file_is_refused() -> None:
    ended = piped("view")
    assert (ended.code, ended.output) == (2, "")


# --- the page


def test_a_page_is_written_instead(tmp_path: Path) -> None:
    path = written(tmp_path, *WAY, line_of(9, name="\ud800<script>"))
    ended = piped("view", "--html", "page.html", path, folder=tmp_path)

    assert ended.output.splitlines() == [
        "Read: 1 trace, 5 spans, 3 processes, 1 failure.",
        "Written: 1 trace, to page.html.",
    ]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert TRACE in text
    assert "<script>\\ud800" not in text


def test_a_page_has_the_last_200_traces_unless_others_are_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, *many(201))

    assert "Written: 200 traces" in piped("view", "--html", tmp_path / "page.html", path).output
    assert "Written: 201 traces" in piped("view", "--all", "--html", tmp_path / "page.html", path).output
