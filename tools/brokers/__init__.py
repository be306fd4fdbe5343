"""Finds the brokers that the tests and the demo run on: Kafka, RabbitMQ and Redis.

Each is looked for in the environment, then in Docker, then as a plain process; Kafka also as librdkafka's
mock cluster. What was started here listens on 127.0.0.1 only and ends with this process, however that ends.

    with Brokers() as brokers:
        brokers.start(Broker.KAFKA, Broker.REDIS)   # both at once, in the background
        kafka = brokers.find(Broker.KAFKA)          # Found, or Missing with the reason
"""

from brokers.outcome import Broker, Found, Missing, Outcome, describe
from brokers.search import Brokers

__all__ = ["Broker", "Brokers", "Found", "Missing", "Outcome", "describe"]
