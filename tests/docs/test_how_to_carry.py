"""`docs/how-to/own-carrier.md`: its code on a real Redis."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest

from docs.pages import programs_by_heading
from docs.running import environment, printed_by, with_names

if TYPE_CHECKING:
    from pathlib import Path

CODE: Final = programs_by_heading("docs/how-to/own-carrier.md")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a folder with the page's module in it."""
    (tmp_path / "redis_streams.py").write_text(CODE["The carrier"][0], encoding="utf-8")
    return tmp_path


def test_every_block_has_its_test() -> None:
    assert {heading: len(blocks) for heading, blocks in CODE.items()} == dict.fromkeys(
        ["The carrier", "The contract", "Use it", "With a propagator of OpenTelemetry"], 1
    )


def test_the_carrier_passes_the_contract(shop: Path) -> None:
    (shop / "test_redis_streams.py").write_text(CODE["The contract"][0], encoding="utf-8")
    (shop / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")

    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=shop,
        env=environment(),
    )

    assert finished.returncode == 0, finished.stdout
    assert re.search(r"^\d+ passed", finished.stdout, re.MULTILINE)


def test_an_entry_carries_the_context(shop: Path, redis_url: str) -> None:
    names = {"redis://localhost": redis_url, '"orders"': f'"orders-{uuid4().hex}"'}

    sent, received, *spans = printed_by(with_names(CODE["Use it"][0], names), shop)

    _, trace_id = sent.split()
    assert received == f"received {trace_id} b'two coffees' {{'customer': 'acme'}}"
    assert spans == ["send producer redis False", "process consumer redis True"]


def test_propagators_of_opentelemetry_read_and_write_by_it(shop: Path) -> None:
    assert printed_by(CODE["With a propagator of OpenTelemetry"][0], shop) == ["body b3", "True", "True"]
