"""Makes this machine ready to give all brokers: `python -m brokers.install`.

It needs nothing but the standard library. What cannot be done is said and left: it is not needed before
somebody looks for the broker, who then learns why it is missing.
"""

from brokers.outcome import Broker
from brokers.run import Run
from brokers.search import explain, print_to_stderr, sources_of
from brokers.unavailable import Unavailable


def main() -> None:
    """Prepare one source for each broker."""
    run = Run(print_to_stderr)
    for broker in Broker:
        prepare(broker, run)


def prepare(broker: Broker, run: Run) -> None:
    """Prepare the first source that can give a broker here."""
    refusals: list[Unavailable] = []
    for source in sources_of(broker):
        try:
            source.prepare(broker, run)
        except Unavailable as refusal:
            refusals.append(refusal)
        else:
            return
    run.report(explain(broker, refusals))


if __name__ == "__main__":
    main()
