"""Runs librdkafka's mock cluster until it is killed; prints the address that clients bootstrap from."""

import threading

OPENING_SECONDS = 10


def main() -> None:
    """Run the cluster."""
    from confluent_kafka import Producer  # noqa: PLC0415 - the package has to import without it

    errors_only = 3
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": errors_only})
    metadata = cluster.list_topics(timeout=OPENING_SECONDS)
    print(",".join(f"{node.host}:{node.port}" for node in metadata.brokers.values()), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
