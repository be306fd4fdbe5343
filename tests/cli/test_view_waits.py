"""How long a message waited is told as far as it is known, and no further."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.spans import START, line_of
from spakky.tracing.cli.view.record import span_of
from spakky.tracing.cli.view.traces import traces_of

if TYPE_CHECKING:
    from spakky.tracing.cli.view.traces import DrawnSpan
    from spakky.tracing.cli.view.waiting import Wait


def sent(start: int, end: int) -> DrawnSpan:
    return made(1, None, "producer", start, end)


def processed(number: int, start: int, end: int, **changes: object) -> DrawnSpan:
    return made(number, 1, "consumer", start, end, **changes)


def made(number: int, parent: int | None, kind: str, start: int, end: int, **changes: object) -> DrawnSpan:
    times = {"start_unix_nano": START + start, "end_unix_nano": START + end}
    return span_of(line_of(number, parent, kind=kind, **{"queue_time_nano": None, **times, **changes}))


def waits(*spans: DrawnSpan) -> list[Wait | None]:
    (trace,) = traces_of(spans)
    return [node.wait for _, node in trace.walk()]


def told(wait: Wait | None) -> tuple[int, int, str] | None:
    return None if wait is None else (wait.start_unix_nano - START, wait.took_nano, wait.since)


def test_a_timestamp_of_the_message_counts_most() -> None:
    sending, processing = waits(sent(0, 10), processed(2, 50, 60, queue_time_nano=45))

    assert sending is None
    assert told(processing) == (5, 45, "timestamp")


def test_without_one_it_has_waited_since_it_was_sent() -> None:
    _, processing = waits(sent(0, 10), processed(2, 50, 60))

    assert told(processing) == (10, 40, "sent")


def test_a_retry_has_waited_since_the_attempt_before() -> None:
    _, first, second = waits(sent(0, 10), processed(2, 50, 60, attempt=1), processed(3, 90, 95, attempt=2))

    assert told(first) == (10, 40, "sent")
    assert told(second) == (60, 30, "attempt")


def test_of_a_retry_whose_attempt_before_is_not_there_nothing_is_known() -> None:
    _, second = waits(sent(0, 10), processed(3, 90, 95, attempt=2))

    assert second is None


def test_where_clocks_disagree_nothing_is_known() -> None:
    _, processing = waits(sent(40, 50), processed(2, 45, 60))

    assert processing is None


def test_what_no_message_has_started_has_waited_for_none() -> None:
    _, inside = waits(made(1, None, "server", 0, 10), made(2, 1, "consumer", 20, 30))

    assert inside is None
