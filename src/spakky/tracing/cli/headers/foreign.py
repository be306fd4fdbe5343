"""Headers of other formats, known by name or by shape, so that nobody takes them for faulty ones."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["FOREIGN_NAMES", "Foreign", "foreign_by_name", "foreign_by_shape"]


class Foreign(NamedTuple):
    """A header of another format: its name as it was written, empty if it had none, and whose it is."""

    name: str
    format: str

    @property
    def sentence(self) -> str:
        """What it is, and that this library leaves it alone."""
        whose = "" if self.format == _RESPONSE else "not W3C; "
        return f"{self.format}; {whose}this library does not read it by itself"


_B3: Final = "B3 of Zipkin, one header"
_B3_MULTI: Final = "B3 of Zipkin, several headers"
_JAEGER: Final = "Jaeger's own format"
_XRAY: Final = "AWS X-Ray"
_SENTRY: Final = "Sentry's own format"
_DATADOG: Final = "Datadog's own format"
_GOOGLE: Final = "Google Cloud Trace, its older format"
_ELASTIC: Final = "Elastic APM's copy of traceparent"
_OPENTRACING: Final = "the sample format of OpenTracing"
_RESPONSE: Final = "the traceparent of a response, in W3C's draft of Level 3"
_NEW_RELIC: Final = "New Relic's own format"
_GRPC: Final = "the binary format of OpenCensus for gRPC"

_NAMES: Final = {
    "b3": _B3,
    "x-b3-traceid": _B3_MULTI,
    "x-b3-spanid": _B3_MULTI,
    "x-b3-parentspanid": _B3_MULTI,
    "x-b3-sampled": _B3_MULTI,
    "x-b3-flags": _B3_MULTI,
    "uber-trace-id": _JAEGER,
    "x-amzn-trace-id": _XRAY,
    "sentry-trace": _SENTRY,
    "x-datadog-trace-id": _DATADOG,
    "x-datadog-parent-id": _DATADOG,
    "x-datadog-sampling-priority": _DATADOG,
    "x-datadog-origin": _DATADOG,
    "x-datadog-tags": _DATADOG,
    "x-cloud-trace-context": _GOOGLE,
    "elastic-apm-traceparent": _ELASTIC,
    "ot-tracer-traceid": _OPENTRACING,
    "ot-tracer-spanid": _OPENTRACING,
    "ot-tracer-sampled": _OPENTRACING,
    "traceresponse": _RESPONSE,
    "newrelic": _NEW_RELIC,
    "grpc-trace-bin": _GRPC,
}

FOREIGN_NAMES: Final = tuple(_NAMES)
"""Their names, in lower case."""

_SHAPES: Final = (
    (re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{16})-[0-9a-f]{16}-(?:d|[01]-[0-9a-f]{16}|d-[0-9a-f]{16})"), _B3),
    (re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}(?:-[01])?"), "B3 of Zipkin or Sentry's own format"),
    (re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}(?:-[01])?"), _B3),
    (
        re.compile(r"[0-9a-f]{1,32}(?::|%3A)[0-9a-f]{1,16}(?::|%3A)[0-9a-f]{1,16}(?::|%3A)[0-9a-f]{1,2}"),
        _JAEGER,
    ),
    (re.compile(r"(?:[A-Za-z]+=[^;=]*;)*Root=1-[0-9a-f]{8}-[0-9a-f]{24}(?:;.*)?"), _XRAY),
    (re.compile(r"[0-9a-f]{32}/[0-9]{1,20}(?:;o=[0-9]+)?"), _GOOGLE),
)


def foreign_by_name(name: str) -> Foreign | None:
    """Return what a header of that name is, in any case; `None` if it is not a known one."""
    known = _NAMES.get(name.lower())
    return None if known is None else Foreign(name, known)


def foreign_by_shape(value: str) -> Foreign | None:
    """Return what a value without a name looks like; `None` if it is like none of them."""
    found = (known for shape, known in _SHAPES if shape.fullmatch(value))
    known = next(found, None)
    return None if known is None else Foreign("", known)
