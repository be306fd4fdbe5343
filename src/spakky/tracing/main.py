"""The plugin of Spakky Framework: its core calls `initialize` for each application that loads plugins.

    from spakky.core.application.application import SpakkyApplication
    from spakky.core.application.application_context import ApplicationContext

    app = SpakkyApplication(ApplicationContext()).load_plugins().start()
    propagator = app.container.get(ITracePropagator)

Core finds it by the entry point `spakky-tracing` of the group `spakky.plugins`. Nothing of core is imported
before `initialize` is called.

Facts (spakky 8.5):

- A Pod is what the container makes once, for whoever names its type or a base of that. A function may be a
  Pod: it makes what its return annotation says, which has to be the class itself and no text.
- An annotation is kept in a dict that subclasses share with their base, and a class with two `@Pod()` is
  refused. So the class itself stays as it is, and anybody may make a Pod of a subclass of it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol

from spakky.tracing._extras import spakky_core
from spakky.tracing.w3c_propagator import W3CTracePropagator

__all__ = ["initialize"]

_NAME: Final = "w3_c_trace_propagator"  # as core derives it from the name of the class


class _Application(Protocol):
    """What the plugin needs of a `SpakkyApplication`."""

    def add(self, obj: Any) -> object:  # noqa: ANN401 - core has a type for it
        """Register a Pod."""
        ...


def initialize(app: _Application) -> None:
    """Register what is injected where an `ITracePropagator` or a `W3CTracePropagator` is asked for.

    Args:
        app: The `SpakkyApplication` that loads the plugin; each one gets a propagator of its own.

    Raises:
        MissingExtraError: `spakky` core is not installed.
    """
    app.add(_pod())


@cache
def _pod() -> Callable[[], W3CTracePropagator]:
    """Return the Pod, which is the same for all applications, as core tells them apart by identity."""
    annotate = spakky_core("pod.annotations.pod").Pod(name=_NAME)
    pod: Callable[[], W3CTracePropagator] = annotate(_make_propagator)
    return pod


def _make_propagator() -> W3CTracePropagator:
    return W3CTracePropagator()
