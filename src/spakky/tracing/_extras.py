"""What may not be installed: the one sentence about it, and the core of Spakky Framework."""

from importlib import import_module
from typing import Any, NoReturn

from spakky.tracing.error import MissingExtraError

__all__ = ["raise_missing_extra", "spakky_core"]


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


def spakky_core(module: str) -> Any:  # noqa: ANN401 - its types are there with Python 3.12 and later only
    """Import a *module* of `spakky.core`, which nothing else here imports.

    Raises:
        MissingExtraError: `spakky` core is not installed.
    """
    try:
        return import_module(f"spakky.core.{module}")
    except ModuleNotFoundError as error:
        raise_missing_extra("spakky", {"spakky.core"}, error)
