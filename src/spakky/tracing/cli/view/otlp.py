"""Spans as OpenTelemetry writes them to files: OTLP/JSON, of the collector and of exporters.

Names are taken in lowerCamelCase, as OTLP has them, and in snake_case, as protobuf's tools can write them.
Ids are hexadecimal in OTLP, and base64 where protobuf's own JSON was written.
"""

from __future__ import annotations

import re
from functools import lru_cache
from sys import intern
from typing import TYPE_CHECKING, Final

from spakky.tracing.cli.view.record import KINDS, OUTCOMES, ids_of
from spakky.tracing.cli.view.traces import DrawnSpan
from spakky.tracing.cli.view.values import NoSpanError, identifier, number, text, whole
from spakky.tracing.recorder import SpanLink

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["holds_no_traces", "is_otlp", "spans_of"]

_CAPITAL: Final = re.compile("[A-Z]")
_KINDS: Final = ("internal", "internal", "server", "client", "producer", "consumer")
_ERRORS: Final = (2, "STATUS_CODE_ERROR")
_FAILURES: Final = frozenset({"error", "retry", "rejected"})
_NOT_NAMED: Final = "_OTHER"  # what the conventions have for an error without a class
_OTHER_SIGNALS: Final = frozenset({"resourceMetrics", "resourceLogs", "resource_metrics", "resource_logs"})

_SYSTEMS: Final = ("messaging.system", "db.system.name", "db.system", "rpc.system.name", "rpc.system")
_METHODS: Final = ("http.request.method", "http.method")
_MESSAGES: Final = ("messaging.destination.name", "messaging.destination")
_SERVED: Final = ("url.path", "http.target", "http.route")
_OTHERS: Final = ("db.collection.name", "db.namespace", "db.name", "rpc.service")
_HOSTS: Final = ("server.address", "net.peer.name", "http.host")
_PORTS: Final = ("server.port", "net.peer.port")

_Fields = dict[str, object]


def is_otlp(value: Mapping[str, object]) -> bool:
    """Tell whether a JSON object is one of OTLP's that holds spans."""
    return "resourceSpans" in value or "resource_spans" in value


def holds_no_traces(value: Mapping[str, object]) -> bool:
    """Tell whether a JSON object is one of OTLP's with metrics or logs, which a collector's file may have."""
    return bool(_OTHER_SIGNALS.intersection(value))


def spans_of(document: Mapping[str, object]) -> Iterator[DrawnSpan | NoSpanError]:
    """Yield the spans of one document; for one that is none, the reason."""
    for resource in _objects(document, "resourceSpans"):
        described = _attributes(next(_objects(resource, "resource"), {}))
        for scope in _objects(resource, "scopeSpans"):
            for span in _objects(scope, "spans"):
                try:
                    yield _span(span, described)
                except NoSpanError as error:
                    yield error


def _span(span: _Fields, resource: _Fields) -> DrawnSpan:
    fields = {_snake(name): value for name, value in span.items()}
    trace_id, span_id = ids_of(fields)
    start, end = _times(fields)
    attributes = _attributes(fields)
    outcome = _outcome(fields, attributes)
    kind = _kind(fields.get("kind"))
    return DrawnSpan(
        name=intern(text(fields, "name")),
        kind=kind,
        system=intern(_system(attributes)),
        destination=intern(_destination(attributes, kind)),
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=identifier(fields, "parent_span_id", 16),
        links=tuple(_links(fields)),
        start_unix_nano=start,
        end_unix_nano=end,
        outcome=outcome,
        error=_error(fields, attributes, outcome),
        attempt=whole(attributes.get("spakky.attempt")),
        process=intern(_first(resource, ("service.name",))),
        process_id=whole(resource.get("process.pid")),
        death_count=whole(attributes.get("spakky.death_count")),
        is_redelivered=_flag(attributes.get("spakky.is_redelivered")),
        queue_time_nano=_queue_time(attributes, start),
        is_scheduled=_flag(attributes.get("spakky.is_scheduled")) or False,
    )


def _times(fields: _Fields) -> tuple[int, int]:
    """Return start and end; one that is 0 or left out is the other, and a clock may have been put back."""
    start, end = number(fields, "start_time_unix_nano"), number(fields, "end_time_unix_nano")
    begun = start or end
    if not begun:
        message = "it has no start_time_unix_nano"
        raise NoSpanError(message)
    return begun, max(begun, end or 0)


def _kind(value: object) -> str:
    if isinstance(value, str) and not value.isdecimal():
        named = value.removeprefix("SPAN_KIND_").lower()
        return named if named in KINDS else "internal"
    place = whole(value) or 0
    return _KINDS[place] if place < len(_KINDS) else "internal"


def _outcome(fields: _Fields, attributes: _Fields) -> str:
    told = attributes.get("spakky.outcome")
    if isinstance(told, str) and told in OUTCOMES:
        return told
    return "error" if any(status.get("code") in _ERRORS for status in _objects(fields, "status")) else "ok"


def _error(fields: _Fields, attributes: _Fields, outcome: str) -> str | None:
    """Return the class of the error: as the span has it, or of the last exception of one that failed."""
    told = _first(attributes, ("error.type",))
    if outcome in _FAILURES and told in {"", _NOT_NAMED}:
        events = [_attributes(event) for event in _objects(fields, "events")]
        told = next(filter(None, (_first(event, ("exception.type",)) for event in reversed(events))), told)
    return told or None


def _queue_time(attributes: _Fields, start: int) -> int | None:
    """Return how long the message waited; what cannot be, as all attributes that make no sense, is none."""
    waited = whole(attributes.get("spakky.queue_time_nano"))
    return waited if waited is not None and waited <= start else None


def _system(attributes: _Fields) -> str:
    return _first(attributes, _SYSTEMS) or ("http" if _first(attributes, _METHODS) else "")


def _destination(attributes: _Fields, kind: str) -> str:
    if found := _first(attributes, _MESSAGES):
        return found
    if kind == "server" and (served := _first(attributes, _SERVED)):
        return served
    if found := _first(attributes, _OTHERS):
        return found
    host, port = (
        _first(attributes, _HOSTS),
        next((attributes[name] for name in _PORTS if name in attributes), ""),
    )
    return f"{host}:{port}" if host and whole(port) else host


def _links(fields: _Fields) -> Iterator[SpanLink]:
    for link in _objects(fields, "links"):
        yield SpanLink(*ids_of({_snake(name): value for name, value in link.items()}))


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _first(attributes: _Fields, names: tuple[str, ...]) -> str:
    """Return the first of these attributes that is a text, empty if none is."""
    return next((text(attributes, name) for name in names if isinstance(attributes.get(name), str)), "")


def _attributes(owner: _Fields) -> _Fields:
    """Return the attributes of a span, a resource or an event; those that are none are left out."""
    found: _Fields = {}
    for attribute in _objects(owner, "attributes"):
        name = attribute.get("key")
        for kind, value in next(_objects(attribute, "value"), {}).items():
            if isinstance(name, str):
                found[name] = whole(value) if _snake(kind) == "int_value" else value
    return found


def _objects(owner: _Fields | Mapping[str, object], name: str) -> Iterator[_Fields]:
    """Yield the objects under a name in lowerCamelCase: those of a list, or the one that is there."""
    value = owner.get(name, owner.get(_snake(name)))
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item


@lru_cache(maxsize=256)
def _snake(name: str) -> str:
    """Return a name of OTLP's as it is in snake_case."""
    return _CAPITAL.sub(lambda capital: f"_{capital[0].lower()}", name)
