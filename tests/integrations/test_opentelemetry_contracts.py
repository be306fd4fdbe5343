"""The contracts of the boundaries hold with the bridge to OpenTelemetry on, for one client of each broker.

What sends does so without an SDK, as with one a send is a span of its own, and what arrives has the SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracerProvider

from integrations import test_aio_pika, test_aiokafka, test_celery
from integrations.bridged import bridged
from integrations.test_aio_pika import link
from integrations.test_aiokafka import topic, topic_name
from integrations.test_celery import desk, office, rabbitmq_desk
from spakky.tracing.integrations import opentelemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["desk", "link", "office", "rabbitmq_desk", "topic", "topic_name"]


class WithoutSdk:
    @pytest.fixture(autouse=True)
    def _bridge(self) -> Iterator[None]:
        before = otel_context.attach(Context())
        opentelemetry.install(tracer_provider=NoOpTracerProvider())
        yield
        opentelemetry.uninstall()
        otel_context.detach(before)


class WithSdk:
    @pytest.fixture(autouse=True)
    def _bridge(self) -> Iterator[None]:
        with bridged():
            yield


class TestSendingByAiokafka(WithoutSdk, test_aiokafka.TestSending): ...


class TestReceivingByAiokafka(WithSdk, test_aiokafka.TestReceiving): ...


class TestPullingByAiokafka(WithSdk, test_aiokafka.TestPulling): ...


class TestHandlersOfAiokafka(WithSdk, test_aiokafka.TestHandlers): ...


class TestRetryingByAiokafka(WithoutSdk, test_aiokafka.TestRetrying): ...


class TestSendingByAioPika(WithoutSdk, test_aio_pika.TestSending): ...


class TestReceivingByAioPika(WithSdk, test_aio_pika.TestReceiving): ...


class TestPullingByAioPika(WithSdk, test_aio_pika.TestPulling): ...


class TestSendingByCelery(WithoutSdk, test_celery.TestSending): ...


class TestReceivingByCelery(WithSdk, test_celery.TestReceiving): ...


class TestRetriesOfCelery(WithSdk, test_celery.TestRetries):
    test_a_task_sent_in_a_retried_one_is_its_child = None  # type: ignore[assignment] # a send is a span


class TestCeleryInProcess(WithSdk, test_celery.TestInProcess): ...
