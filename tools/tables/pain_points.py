"""The table of what fails elsewhere, and the tests that it does not fail here."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tables.collected import CollectedTest

_KNOWN: Final[dict[str, str]] = {
    "K-01": "forwarded record headers are a tuple: nothing is injected, or the client refuses them",
    "K-02": "forwarding appends a second traceparent, and readers take the stale one",
    "K-03": "the caller's own list or dict of headers grows with every send",
    "K-04": "a trace header that is not UTF-8 raises out of the consumer, and the record is lost",
    "K-05": "one bad header loses a whole batch",
    "K-06": "a binary header of somebody else stops the consumer",
    "K-07": "a header without value, or no headers at all, raises",
    "K-08": "a header value of type str raises",
    "K-09": "the context is gone before the message is processed",
    "K-10": "baggage does not reach the handler",
    "K-11": "the trace is not continued but only linked, with no choice",
    "K-12": "a message's span stays open until the next poll",
    "K-13": "two consumers in one thread leave a context behind for ever",
    "K-14": "polling in an executor logs that a context cannot be detached",
    "K-15": "a batch knows no contexts of its records, or that of the first one only",
    "K-16": "headers given by position break the send",
    "K-17": "headers in another shape than expected make the caller's send raise",
    "K-18": "a key that is text or not UTF-8 switches the injection off without a word",
    "K-19": "a send that is not awaited stays current for what comes after it",
    "K-20": "propagation is off unless it is switched on",
    "K-21": "batch builders and transactions carry nothing, or poison a shared default",
    "K-22": "the span of a send ends before the send, and failures are not on it",
    "K-23": "the user's serializers run twice for each message",
    "K-24": "producers made before the instrumentation, and half of their methods, do not work",
    "K-25": "records from `poll` of kafka-python are not seen",
    "K-26": "only a binary header of one vendor is spoken",
    "K-27": "headers are looked for at the place of another argument",
    "K-28": "a retry or a dead letter loses its trace, gathers headers, or carries a stale one",
    "K-29": "half a dozen headers for each message",
    "K-30": "a header name in another casing is not found, and not replaced",
    "K-31": "a batch links only to senders with a header of the framework's own",
    "K-32": "publishing a batch puts a private mark into the baggage, which breaks later traces",
    "K-33": "a poll that brings nothing makes spans and work",
    "A-01": "a traceparent of bytes makes a message undeliverable",
    "A-02": "a trace header of any other AMQP type raises",
    "A-03": "the messages of a queue's iterator have no context",
    "A-04": "messages that are pulled from a queue have no context",
    "A-05": "a loop over messages leaves the last one's context behind",
    "A-06": "a loop over messages drops the baggage",
    "A-07": "a loop that goes on in another context logs errors",
    "A-08": "an error of the instrumentation stops the delivery and leaves a context behind",
    "A-09": "arguments given by position break the publish",
    "A-10": "publishing changes the caller's headers and properties",
    "A-11": "a republished message mixes the fields of two contexts",
    "A-12": "a message whose headers are None raises",
    "A-13": "instrumenting twice wraps twice, and cannot be undone",
    "A-14": "undoing breaks consumers that are running",
    "A-15": "only one class of connections is covered",
    "A-16": "a broker's address that looks unusual makes publishing raise",
    "A-17": "a handler's reply carries the sender's context and not the handler's own",
    "A-18": "a header that is not UTF-8 raises before the message can be acknowledged",
    "A-19": "numbers and tables in headers break consumers of other clients",
    "A-20": "a dead letter says nothing of its way and links to nothing",
    "A-21": "every client library has another instrumentation, and some have none",
    "C-01": "a publish that fails leaves its span current for ever",
    "C-02": "a task that is sent by its name gets no headers, or its span waits for the garbage collector",
    "C-03": "two runs of one task id at once overwrite each other's state",
    "C-04": "a run whose end nobody tells leaves its context to the next task",
    "C-05": "workers that are replaced after some tasks lose spans",
    "C-06": "pools of threads and greenlets are not traced, or log an error for each task",
    "C-07": "linking instead of continuing drops the baggage",
    "C-08": "everything ends up in one giant trace, with no choice",
    "C-09": "baggage and tracestate of an earlier attempt come back with a retry",
    "C-10": "retries nest ever deeper and do not say which attempt they are",
    "C-11": "the body of a chord belongs to whichever header task ended last, and knows of no other",
    "C-12": "the steps of a chain all hang on the first sender",
    "C-13": "headers in two places contradict each other",
    "C-14": "two libraries overwrite each other's baggage",
    "C-15": "opting out for one call does nothing, and empties the caller's dict",
    "C-16": "headers grow with every retry",
    "C-17": "no W3C header is written, so nobody else can continue",
    "C-18": "all ticks of a scheduler end up in one endless trace",
    "C-19": "a nested header is followed by crashes of the broker",
    "C-20": "eager tasks get no context, or lose that of their caller",
    "C-21": "messages of protocol 1 get no headers",
    "C-22": "header names read Celery's own fields, and cannot be listed",
    "C-23": "a task that has sent another loses its own context",
    "C-24": "the end of a task clears what was current before",
    "C-25": "a vendor has no instrumentation for Celery",
    "T-01": "a requeued message reuses a stale context",
    "T-02": "instrumenting twice adds a second middleware",
    "T-03": "a label that is not text raises, or the message is skipped",
    "T-04": "no instrumentation at all, or one that does not propagate",
    "T-05": "no instrumentation at all",
    "P-01": "of two traceparents every library takes another one",
    "P-02": "without a context old headers travel on",
    "P-03": "a new traceparent beside the tracestate of another trace",
    "P-04": "a message without context inherits what happens to be current",
    "P-05": "baggage turns a plus into a space and back",
    "P-06": "the properties of a baggage member become part of its value",
    "P-07": "a second baggage header is ignored",
    "P-08": "bytes are read as a list of numbers",
    "P-09": "a token that is kept across calls logs errors when it is given back",
    "P-10": "a context that is kept across a generator's steps leaks",
    "P-11": "versions, future versions and white space of a traceparent are read wrong",
    "P-12": "another format than W3C cannot be chosen",
    "P-13": "a message with baggage only loses it",
    "P-14": "a megabyte of baggage is worked through, and logged",
}

_REASONS: Final[dict[str, str]] = {
    "C-25": "says nothing that can be tested; this library has one",
    "T-05": "huey is not served by an integration; a plain dict is what one would build on",
}
"""Why the tests of a pain point, if there are any, do not show all of it."""

_INTRODUCTION: Final = """# What fails elsewhere, and the tests that it does not here

Made by `python -m tables` from the docstrings of the tests; `make check` compares it with them. A test of a
contract runs for every integration that inherits it.

| | what fails elsewhere | tests |
|---|---|---|
"""


def pain_points(tests: Iterable[CollectedTest]) -> str:
    """Return the document.

    Raises:
        ValueError: A test carries a number that is not known.
    """
    by_number: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        for number in test.numbers:
            by_number[number].append(_shown(test))
    unknown = by_number.keys() - _KNOWN.keys()
    if unknown:
        message = f"there is no pain point {min(unknown)}"
        raise ValueError(message)
    return _INTRODUCTION + "".join(_row(number, by_number[number]) for number in _KNOWN)


def _shown(test: CollectedTest) -> str:
    sentence = test.name.removeprefix("test_").replace("_", " ")
    return f"{sentence} (`{test.source.removeprefix('tests/')}`)"


def _row(number: str, tests: list[str]) -> str:
    reason = [_REASONS[number]] if number in _REASONS else []
    shown = "; ".join([*reason, *dict.fromkeys(tests)]) or "**missing**"
    return f"| {number} | {_KNOWN[number]} | {shown} |\n"
