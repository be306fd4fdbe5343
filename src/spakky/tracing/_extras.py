"""The one sentence about a client library that is not installed."""

from typing import NoReturn

from spakky.tracing.error import MissingExtraError

__all__ = ["raise_missing_extra"]


def raise_missing_extra(extra: str, modules: set[str], error: ModuleNotFoundError) -> NoReturn:
    """Say which command installs what an integration needs.

    Args:
        extra: The extra of this distribution that installs the client library.
        modules: The top-level modules that the extra brings.
        error: What the import raised.

    Raises:
        MissingExtraError: The client library is not installed.
        ModuleNotFoundError: *error* itself, where the library is there but broken: its own error says more.
    """
    if error.name not in modules:
        raise error
    message = f"{error.name} is not installed: pip install 'spakky-tracing[{extra}]'"
    raise MissingExtraError(message) from error
