"""The one switch for everything: switched off, no boundary writes or reads a header.

The environment variable `SPAKKY_TRACING_ENABLED` (`0`, `false`, `no` or `off`) does so from the start. A
topic, an exchange or a single call is switched off by the option `enabled`.
"""

from __future__ import annotations

import os

__all__ = ["is_switched_on", "switch"]

_is_on = os.environ.get("SPAKKY_TRACING_ENABLED", "").strip().lower() not in {"0", "false", "no", "off"}


def switch(*, on: bool) -> None:
    """Switch all boundaries of this process on or off; what is being processed ends as it began."""
    global _is_on  # noqa: PLW0603 - the one process-wide switch
    _is_on = on


def is_switched_on() -> bool:
    """Return whether boundaries carry contexts at all."""
    return _is_on
