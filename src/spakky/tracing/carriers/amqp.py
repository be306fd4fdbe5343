"""Headers of AMQP 0-9-1 messages: the field table in the basic properties.

Facts:
- A field table is a dict of names to typed values; a name occurs once (AMQP 0-9-1, section 4.2.5.5).
- Clients disagree on text: aio-pika sends `str` and refuses `bytes`, pika sends and hands out `bytearray` for
  bytes, kombu hands out `bytes` for what is not UTF-8. So any of them may arrive, beside numbers, lists,
  tables and `None`.
- aio-pika wants exactly a dict, and a message may share it with its sender's code.
"""

from __future__ import annotations

from typing import Final

from spakky.tracing._text import readable
from spakky.tracing.carriers.mapping import MappingCarrier

__all__ = ["CARRIER", "AmqpCarrier"]


class AmqpCarrier(MappingCarrier):
    """Reads and writes an AMQP header table; `CARRIER` is the one instance that is needed."""

    def _readable_values(self, value: object) -> list[str]:
        """Return the one value if it is text; a list is a value of its own here, not several."""
        text = readable(value)
        return [] if text is None else [text]


CARRIER: Final = AmqpCarrier()
