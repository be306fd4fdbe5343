"""Starts the brokers for a person, until Ctrl-C: `python -m brokers`."""

import signal
import threading
from contextlib import suppress

from brokers import Broker, Brokers, Missing


def main() -> None:
    """Find all brokers, print how to point programs at them, and keep them until Ctrl-C."""
    # A shell has its background jobs ignore the signal of Ctrl-C; a script that sends it means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), Brokers() as brokers:
        brokers.start(*Broker)
        for broker in Broker:
            _print_export(brokers, broker)
        print("# They run until you press Ctrl-C.", flush=True)
        threading.Event().wait()


def _print_export(brokers: Brokers, broker: Broker) -> None:
    outcome = brokers.find(broker)
    if isinstance(outcome, Missing):
        print(f"# {outcome.reason}", flush=True)
    else:
        print(f"export {broker.variable}={outcome.address}", flush=True)


if __name__ == "__main__":
    main()
