"""Writes what is known about headers as JSON, for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spakky.tracing.cli.headers.findings import Finding, Reading
    from spakky.tracing.cli.headers.messages import Message
    from spakky.tracing.context import TraceContext

__all__ = ["document_of"]


def document_of(messages: Sequence[Message], passed_over: int) -> str:
    """Return one JSON document, in ASCII; its names stay the same."""
    document = {
        "is_valid": not any(message.has_faults for message in messages),
        "passed_over": passed_over,
        "messages": [_message(message) for message in messages],
    }
    return json.dumps(document, indent=2)


def _message(message: Message) -> dict[str, Any]:
    return {
        "line": message.line,
        "is_valid": not message.has_faults,
        "headers": [_reading(reading) for reading in message.readings],
        "other_formats": [{"name": each.name, "format": each.format} for each in message.foreign],
        "findings": [_finding(finding) for finding in message.findings],
        "sent_on": None if message.context is None else _sent_on(message.context),
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "kind": reading.kind,
        "value": reading.value,
        "guess": reading.guess,
        "verdict": reading.verdict,
        "findings": [_finding(finding) for finding in reading.findings],
        "facts": {fact.name: fact.value for fact in reading.facts},
        "members": [asdict(member) for member in reading.members],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "sentence": finding.sentence,
        "is_fault": finding.is_fault,
        "document": finding.section.document,
        "section": finding.section.number,
        "member": finding.member,
        "places": [list(place) for place in finding.places],
    }


def _sent_on(context: TraceContext) -> dict[str, str]:
    return {
        "traceparent": context.to_traceparent(),
        "tracestate": context.trace_state.to_header(),
        "baggage": context.baggage.to_header(),
    }
