"""A client without a broker, whose messages are their headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spakky.tracing.boundaries.client import Client

if TYPE_CHECKING:
    from spakky.tracing.carriers import ICarrier

__all__ = ["client_of"]


def client_of(carrier: ICarrier[Any]) -> Client[Any, Any]:
    """Return a client whose headers have the shape that a *carrier* knows."""
    return Client(
        system="post",
        carrier=carrier,
        message_type=object,
        headers=lambda letter: letter,
        destination=lambda _: "",
        name=lambda _: "process",
    )
