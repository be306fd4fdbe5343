"""What every integration promises of the options: for all messages, for some by name, for one call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from contract.contexts import TRACEPARENT, full_context
from contract.delivery import Delivery
from contract.receiving import SENDER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.switch import switch

if TYPE_CHECKING:
    from collections.abc import Iterator

SENT = {"traceparent": TRACEPARENT, "baggage": "tenant=acme"}
NAMES = ("traceparent", "tracestate", "baggage")


class ChoosingContract(Delivery):
    """Relation and opt-out, on messages of a real broker."""

    @pytest.fixture(autouse=True)
    def _with_the_defaults_afterwards(self) -> Iterator[None]:
        yield
        self.integration.configure()
        switch(on=True)

    async def relation_seen(self, **options: Any) -> str:
        """Return how the processing of a message relates to its sender."""
        recorder = MemoryRecorder()
        message = await self.deliver(SENT)
        with self.integration.process(message, tracer=recorder, **options) as processing:
            context = TraceContext.get()
        if context is None:
            assert (processing.context, processing.links, list(recorder.spans)) == (None, (), [])
            return "off"
        (span,) = recorder.spans
        assert [link.trace_id for link in span.links] == [link.trace_id for link in processing.links]
        relation = "child" if context.trace_id == SENDER.trace_id else "link" if span.links else "root"
        assert dict(context.baggage) == ({} if relation == "root" else {"tenant": "acme"})
        return relation

    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    async def test_a_relation_can_be_set_for_the_integration(self, relation: str) -> None:
        """C-08, K-11: for a whole integration."""
        self.integration.configure(relation=relation)

        assert await self.relation_seen() == relation

    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    async def test_a_relation_can_be_set_by_name(self, relation: str) -> None:
        """C-08, K-11: for a topic or a queue."""
        named = {self.source: relation, "another": "child" if relation == "root" else "root"}

        assert await self.relation_seen(relation=named) == relation
        assert await self.relation_seen(relation={"another": relation}) == "child"

    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    async def test_a_relation_can_be_a_function_of_the_message(self, relation: str) -> None:
        """C-08, K-11: for each message."""
        asked: list[Any] = []

        def choose(message: Any) -> str:
            asked.append(message)
            return relation

        assert await self.relation_seen(relation=choose) == relation
        assert len(asked) == 1
        assert self.integration.context_from(asked[0]).span_id == SENDER.span_id

    @pytest.mark.parametrize("configured", ["child", "link", "root"])
    @pytest.mark.parametrize("called", ["child", "link", "root"])
    async def test_a_relation_of_the_call_counts_more(self, configured: str, called: str) -> None:
        self.integration.configure(relation={self.source: configured})

        assert await self.relation_seen() == configured
        assert await self.relation_seen(relation=called) == called

    async def test_what_is_configured_later_holds_for_what_was_decorated_before(self) -> None:
        message = await self.deliver(SENT)
        seen: list[str] = []

        def look(message: Any) -> None:
            context = TraceContext.get()
            assert context is not None
            seen.append(context.trace_id)

        handle = self.integration.consumer(tracer=MemoryRecorder())(look)
        handle(message)
        self.integration.configure(relation="root")
        handle(message)
        self.integration.configure()
        handle(message)

        first, second, third = seen
        assert first == third == SENDER.trace_id
        assert second != SENDER.trace_id

    @pytest.mark.parametrize("wrong", ["fails", "returns something else"])
    async def test_a_function_that_does_not_say_a_relation_ignores_the_sender(
        self, wrong: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")

        def choose(message: Any) -> Any:
            if wrong == "fails":
                raise LookupError
            return "parent"

        assert await self.relation_seen(relation=choose) == "root"
        assert [record.levelno for record in caplog.records if record.name == "spakky.tracing"] == [
            logging.DEBUG
        ]

    async def test_a_batch_takes_the_relation_of_each_message(self) -> None:
        one, other = TraceContext.new_root(), TraceContext.new_root()
        messages = [await self.deliver({"traceparent": each.to_traceparent()}) for each in (one, other)]

        def choose(message: Any) -> str:
            return "root" if message is messages[0] else "child"

        with (
            TraceContext.use(TraceContext.new_root()) as current,
            self.integration.process_batch(messages, relation=choose) as batch,
        ):
            assert current is not None
            assert batch.context.trace_id != current.trace_id
            with batch.process(messages[0]) as first:
                pass
            with batch.process(messages[1]) as second:
                pass

        assert [link.trace_id for link in batch.links] == [other.trace_id]
        assert first.context.trace_id not in {one.trace_id, other.trace_id}
        assert second.context.parent_span_id == other.span_id

    @pytest.mark.parametrize("relation", ["parent", 7, None, {"orders": "parent"}])
    async def test_what_is_no_relation_is_refused(self, relation: Any) -> None:
        with pytest.raises(WrongUseError, match=r"^relation= takes 'child', 'link' or 'root', got "):
            self.integration.configure(relation=relation)

    async def test_a_source_can_be_switched_off_by_name(self) -> None:
        assert await self.relation_seen(enabled={self.source: False}) == "off"
        assert await self.relation_seen(enabled={self.source: True, "another": False}) == "child"
        assert await self.relation_seen(enabled={"another": False}) == "child"

    async def test_a_switched_off_source_is_not_read_in_any_way(self) -> None:
        self.integration.configure(enabled={self.source: False})
        message = await self.deliver(SENT)

        with TraceContext.use(TraceContext.new_root()) as ambient:
            assert self.integration.context_from(message) is None
            with self.integration.process_batch([message]) as batch:
                assert TraceContext.get() is ambient
            assert batch.links == ()
            for _ in self.integration.iterate([message]):
                assert TraceContext.get() is ambient

    async def test_a_batch_leaves_out_what_is_switched_off(self) -> None:
        message = await self.deliver(SENT)

        with self.integration.process_batch([message], enabled={self.source: False}) as batch:
            assert TraceContext.get() is None

        assert (batch.context, batch.links) == (None, ())

    async def test_everything_can_be_switched_off_and_on(self) -> None:
        with TraceContext.use(full_context()):
            switch(on=False)
            written = self.integration.headers(None)
            assert await self.relation_seen_within() == "ambient"
            switch(on=True)
            assert await self.relation_seen() == "child"

        assert not {str(name).lower() for name in dict(written)} & set(NAMES)

    async def relation_seen_within(self) -> str:
        """Return whether the processing of a message leaves what is current."""
        ambient = TraceContext.get()
        message = await self.deliver(SENT)
        with self.integration.process(message):
            return "ambient" if TraceContext.get() is ambient else "other"

    @pytest.mark.parametrize("enabled", [0, None, "no", {"orders": "no"}])
    async def test_what_is_neither_on_nor_off_is_refused(self, enabled: Any) -> None:
        with pytest.raises(WrongUseError, match=r"^enabled= takes True, False or a mapping of names"):
            self.integration.configure(enabled=enabled)

    async def test_an_unknown_option_is_not_configured(self) -> None:
        with pytest.raises(WrongUseError, match="there is no option 'relations' here"):
            self.integration.configure(relations="child")
