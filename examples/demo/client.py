"""Sends the orders, as a customer's program would."""

from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Order:
    """An order that the shop has taken.

    Attributes:
        number: Its number.
        traceparent: The header that was sent with it; `None` for none.
        trace_id: The trace in which the shop took it, as the shop says.
    """

    number: int
    traceparent: str | None
    trace_id: str


def send_order(shop: str, number: int, traceparent: str | None = None) -> Order:
    """Send one order to the shop.

    Raises:
        httpx.HTTPError: The shop did not take it.
    """
    headers = {"traceparent": traceparent} if traceparent else {}
    answer = httpx.post(
        f"{shop}/orders", json={"order": number}, headers=headers, timeout=30, trust_env=False
    )
    answer.raise_for_status()
    return Order(number, traceparent, str(answer.json()["trace_id"]))
