"""Two applications that load the tracing plugin, one by its name and one with all that are installed."""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false, reportIncompatibleMethodOverride=false

import sys
from importlib import import_module

from saying import say

import spakky.tracing
from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.core.pod.annotations.pod import Pod
from spakky.core.pod.annotations.primary import Primary
from spakky.tracing import ITracePropagator, TraceContext, W3CTracePropagator


@Pod()
class Shop:
    """Asks for a propagator."""

    def __init__(self, propagator: ITracePropagator) -> None:
        self.propagator = propagator


@Primary()
@Pod()
class ShopPropagator(W3CTracePropagator):
    """Goes before the plugin's own, by methods that take the carrier alone."""

    def inject(self, carrier: dict[str, str]) -> None:
        super().inject(carrier)
        carrier["x-shop"] = "1"


def load(*pods: object) -> SpakkyApplication:
    """Start an application with the tracing plugin."""
    app = SpakkyApplication(ApplicationContext()).load_plugins(include={spakky.tracing.PLUGIN_NAME})
    for pod in pods:
        app.add(pod)
    return app.start()


def main() -> None:
    """Say what is injected in each application."""
    loaded_here = "spakky.tracing.main" in sys.modules
    first, second, own = load(Shop), load(Shop), load(Shop, ShopPropagator)
    initialize(first)  # once more changes nothing
    propagators = [app.container.get(Shop).propagator for app in (first, second, own)]
    carrier = {}
    with TraceContext.use(TraceContext.new_root()):
        propagators[2].inject(carrier)
    say(
        loaded_here=loaded_here,
        classes=[type(each).__name__ for each in propagators],
        each_has_its_own=propagators[0] is not propagators[1],
        by_class=first.container.get(W3CTracePropagator) is propagators[0],
        by_name=first.container.get(ITracePropagator, "w3_c_trace_propagator") is propagators[0],
        written=sorted(carrier),
    )


def initialize(app: SpakkyApplication) -> None:
    import_module("spakky.tracing.main").initialize(app)


if __name__ == "__main__":
    main()
