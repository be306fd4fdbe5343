"""What counts as text in a header value, whatever type the client library hands out."""

__all__ = ["readable"]


def readable(value: object) -> str | None:
    """Return *value* as text, or `None` if it is not text.

    Bytes are decoded as UTF-8; what is not UTF-8 becomes U+FFFD, which no grammar of a propagation field
    allows, so that the propagator refuses the value and says why.

    Args:
        value: A header's value: `str`, `bytes`, `bytearray` and `memoryview` are text, anything else is not.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decoded(value)
    return None


def _decoded(value: bytes | bytearray | memoryview) -> str | None:
    try:
        return bytes(value).decode("utf-8", "replace")
    except ValueError:  # a memoryview that was released
        return None
