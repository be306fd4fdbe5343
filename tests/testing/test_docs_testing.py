"""The code of `docs/testing.md` as it stands, with addresses and names of queues put in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import uuid4

from docs.pages import blocks_of, programs_of
from testing.nested import errors_in

if TYPE_CHECKING:
    from testing.nested import Project

PAGE = "docs/testing.md"
FIRST, MESSAGES, WORKER, RUNNING_WORKER, UNITTEST, CARRIER = programs_of(PAGE)
LACKING, ANOTHER_TRACE = [block.text for block in blocks_of(PAGE) if block.kind == "text"]

SERVING = """
    import sys
    from spakky.tracing.integrations import environ
    from spakky.tracing.recorder import Recorder
    from spakky.tracing.tracer import Operation, get_tracer
    from spakky.tracing import TraceContext

    operation = Operation(name="process orders", kind="consumer", system="shop", destination="orders",
                          context=TraceContext.new_root())
    while not sys.stdin.closed and get_tracer():
        get_tracer().start(operation).end("ok")
        if not sys.stdin.readline():
            break
"""


def without_ids(text: str) -> list[str]:
    text = re.sub(r"\b(?!0af7)[0-9a-f]{32}\b", "ID", text).replace("0af7651916cd43dd8448eb211c80319c", "ID")
    return [line.strip() for line in re.sub(r"\(\d+\)", "(PID)", text).splitlines()]


def said(output: str) -> list[str]:
    return without_ids("\n".join(errors_in(output)).removeprefix("AssertionError: "))


def test_the_first_test_passes_and_what_it_lacks_is_told(project: Project, kafka_address: str) -> None:
    topic = f"orders-{uuid4().hex[:8]}"
    code = FIRST.replace('"orders"', f'"{topic}"').replace(" orders", f" {topic}")
    code = code.replace("localhost:9092", kafka_address)
    project.write("test_shop.py", code)
    project.write("test_lacking.py", f"{code}\n    traces.span('process order')\n")

    output = project.fails()

    assert "1 failed, 1 passed" in output
    assert said(output.replace(topic, "orders")) == without_ids(LACKING)


def test_a_message_is_read(project: Project) -> None:
    project.write("test_shop.py", MESSAGES)

    output = project.fails()

    assert "1 failed, 1 passed" in output
    assert said(output) == without_ids(ANOTHER_TRACE)


def test_a_worker_is_waited_for(project: Project, redis_url: str) -> None:
    project.write("test_shop.py", WORKER.replace('"orders"', f'"{uuid4().hex}"'))

    project.passes(REDIS_URL=redis_url)


def test_a_worker_that_runs_already_is_recorded(project: Project) -> None:
    project.write("test_shop.py", RUNNING_WORKER)
    project.write("worker.py", SERVING)

    project.passes()


def test_unittest_does_without_pytest(project: Project) -> None:
    project.write("test_shop.py", f"{UNITTEST}\n\nif __name__ == '__main__':\n    unittest.main()\n")

    assert "OK" in project.python("test_shop.py")


def test_a_carrier_passes_the_contract(project: Project) -> None:
    project.write("test_carrier.py", CARRIER)

    project.passes()
