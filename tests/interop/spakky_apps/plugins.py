"""Two applications that load the tracing plugin, one by its name and one with all that are installed."""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false

import json
import sys

from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.core.pod.annotations.pod import Pod
from spakky.core.pod.annotations.primary import Primary

import spakky.tracing
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
    """Print what is injected in each application."""
    core_first = "spakky.tracing.main" not in sys.modules
    first, second, own = load(Shop), load(Shop), load(Shop, ShopPropagator)
    shops = [app.container.get(Shop) for app in (first, second, own)]
    carrier = {}
    with TraceContext.use(TraceContext.new_root()):
        shops[2].propagator.inject(carrier)
    spakky.tracing.main.initialize(first)  # once more changes nothing
    print(
        json.dumps(
            {
                "loaded_by_core": core_first,
                "classes": [type(shop.propagator).__name__ for shop in shops],
                "each_has_its_own": shops[0].propagator is not shops[1].propagator,
                "by_class": first.container.get(W3CTracePropagator) is shops[0].propagator,
                "by_name": first.container.get(ITracePropagator, "w3_c_trace_propagator")
                is shops[0].propagator,
                "written": sorted(carrier),
            }
        )
    )


if __name__ == "__main__":
    main()
