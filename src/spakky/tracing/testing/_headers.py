"""The headers of any client's message, found by its shape: no client library is imported for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from spakky.tracing._text import readable
from spakky.tracing.carriers.kafka import without_holes
from spakky.tracing.error import WrongUseError

__all__ = ["Headers", "headers_of"]

Headers = list[tuple[str, object]]
"""Names in lower case and values, repeated as they are."""

# Where objects have their headers: most of them, dramatiq's and taskiq's messages, a job of RQ.
_ATTRIBUTES: Final = ("headers", "options", "labels", "meta")
_JOB_OF_ARQ: Final = "job_try"  # in the ctx of a job
_RUN_OF_ARQ: Final = "spakky_tracing_run"  # in that ctx, with the job's headers, by our hook
_MISSING: Final = object()
_NAME_AND_VALUE: Final = 2
_WSGI_PREFIX: Final = "HTTP_"


def headers_of(message: object) -> Headers:
    """Return the headers of *message*.

    Args:
        message: A message or request of a client library, its headers, an ASGI scope or a WSGI environ.

    Raises:
        WrongUseError: It has no headers of any shape that is known.
    """
    found = _native_headers(message)
    pairs = None if found is _MISSING else _pairs(found)
    if pairs is None:
        sentence = f"no headers are found in {_article(message)}: pass the message itself, or its headers"
        raise WrongUseError(sentence)
    return [(name.lower(), value) for each, value in pairs if (name := readable(each)) is not None]


def _article(message: object) -> str:
    return "None" if message is None else f"an object of type {type(message).__name__}"


def _native_headers(message: object) -> object:
    """Return what a *message* has for headers, `_MISSING` if nothing looks like it."""
    if isinstance(message, Mapping) and not hasattr(message, "headers"):  # requests of servers are mappings
        return _of_mapping(message)
    found = _of_object(message)
    return _of_sequence(message) if found is _MISSING and isinstance(message, (list, tuple)) else found


def _of_sequence(message: Sequence[object]) -> object:
    """Return the headers in what pika hands out: method, properties and body; else these are pairs."""
    parts = [found for part in message if (found := _of_object(part)) is not _MISSING]
    return parts[0] if len(parts) == 1 and isinstance(message, tuple) else message


def _of_mapping(message: Mapping[Any, Any]) -> object:
    if "REQUEST_METHOD" in message:
        return _of_environ(message)
    if "type" in message and isinstance(message.get("headers"), (list, tuple)):
        return message["headers"]  # an ASGI scope
    if _JOB_OF_ARQ in message:
        found = _of_object(message.get(_RUN_OF_ARQ))
        return {} if found is _MISSING else found
    return message


def _of_environ(environ: Mapping[Any, Any]) -> Headers:
    return [
        (name.removeprefix(_WSGI_PREFIX), value)
        for name, value in environ.items()
        if isinstance(name, str) and name.startswith(_WSGI_PREFIX)
    ]


def _of_object(message: object) -> object:
    for name in _ATTRIBUTES:
        found = getattr(message, name, _MISSING)
        if callable(found):
            found = found()  # confluent-kafka
        if found is None:
            found = {}
        if isinstance(found, (Mapping, list, tuple)):
            return _with_attributes(message, found) if name == "headers" else found
    return _MISSING


def _with_attributes(message: object, headers: object) -> object:
    """Return *headers*, or what the request of a task of Celery has for them: attributes of its own."""
    attributes = getattr(message, "__dict__", {})
    return attributes if "traceparent" in attributes else headers


def _pairs(headers: object) -> Iterable[tuple[object, object]] | None:
    """Return names and values; `None` if these are no headers."""
    if isinstance(headers, Mapping):
        return _pairs_of_mapping(headers)
    pairs = without_holes(headers)
    if not isinstance(pairs, (list, tuple)):
        return None
    return [(pair[0], pair[1]) for pair in pairs] if all(map(_is_pair, pairs)) else None


def _is_pair(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == _NAME_AND_VALUE


def _pairs_of_mapping(headers: Mapping[Any, Any]) -> list[tuple[object, object]]:
    items: Iterable[tuple[object, object]] = getattr(headers, "multi_items", headers.items)()  # httpx repeats
    pairs = [(name, each) for name, value in items for each in _values(value)]
    nested = headers.get("headers")
    if isinstance(nested, Mapping) and "traceparent" not in headers:  # some tools nest Celery's once more
        pairs += nested.items()
    return pairs


def _values(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else (value,)
