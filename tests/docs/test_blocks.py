"""Every block of every page runs: here, or in the test that is named here."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from brokers.guarded import Guarded
from docs.pages import ROOT, Block, blocks_of, pages, text_of
from docs.running import Reader, without_ids

if TYPE_CHECKING:
    from pathlib import Path

WITH_TESTS_OF_THEIR_OWN: Final = {
    "README.md": "tests/docs/test_readme.py",
    "docs/celery.md": "tests/docs/test_celery.py",
    "docs/explain.md": "tests/docs/test_explain.py",
    "docs/how-to/batches.md": "tests/docs/test_how_to_batch.py",
    "docs/how-to/migrate-from-opentelemetry.md": "tests/docs/test_how_to_migrate.py",
    "docs/how-to/own-carrier.md": "tests/docs/test_how_to_carry.py",
    "docs/how-to/retries-and-dead-letters.md": "tests/docs/test_how_to_retry.py",
    "docs/how-to/trust-boundaries.md": "tests/docs/test_how_to_trust.py",
    "docs/http.md": "tests/docs/test_http.py",
    "docs/logging.md": "tests/docs/test_logging.py",
    "docs/opentelemetry.md": "tests/docs/test_opentelemetry.py",
    "docs/spakky.md": "tests/interop/test_spakky.py",
    "docs/storage.md": "tests/docs/test_storage.py",
    "docs/subprocesses.md": "tests/docs/test_storage.py",
    "docs/tail.md": "tests/docs/test_tail.py",
    "docs/testing.md": "tests/testing/test_docs_testing.py",
    "docs/view.md": "tests/docs/test_view.py",
}
ADDRESSES: Final = {
    "kafka_address": "localhost:9092",
    "amqp_url": "amqp://guest:guest@localhost/",
    "redis_url": "redis://localhost:6379/0",
}
LINES: Final = "\n"
NONE: Final = Block("", "", "", 0)


def is_run(block: Block) -> bool:
    return block.kind in {"python", "sh", "console"}


def shown_after(block: Block, after: Block) -> str:
    """Return what a page shows that a block prints; a program may have a block of text below it for that."""
    if block.kind == "console":
        return block.text
    return after.text if (block.kind, after.kind) == ("python", "text") else ""


TO_FOLLOW: Final = [
    page for page in pages() if page not in WITH_TESTS_OF_THEIR_OWN and any(map(is_run, blocks_of(page)))
]


@pytest.mark.parametrize("page", TO_FOLLOW)
def test_a_reader_sees_what_the_page_shows(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    blocks = blocks_of(page)
    text = LINES.join(block.text for block in blocks)
    here = {there: request.getfixturevalue(name) for name, there in ADDRESSES.items() if there in text}
    with Guarded() as processes:
        reader = Reader(tmp_path, here, processes)
        for block, after in pairwise([*blocks, NONE]):
            seen, shown = reader.follow(block), shown_after(block, after)
            assert not shown or without_ids(seen) == without_ids(shown)


@pytest.mark.parametrize("page", TO_FOLLOW)
def test_a_program_with_a_name_is_used_after_it_is_shown(page: str) -> None:
    """One that is shown and not run would be written, and that is all."""
    blocks = blocks_of(page)
    for number, block in enumerate(blocks):
        name = block.title.removesuffix(".py")
        assert name in LINES.join(each.text for each in blocks[number + 1 :]), f"{page}:{block.line}"


@pytest.mark.parametrize(("page", "test"), WITH_TESTS_OF_THEIR_OWN.items())
def test_a_test_of_a_page_names_it(page: str, test: str) -> None:
    assert f'"{page}"' in (ROOT / test).read_text(encoding="utf-8")
    assert any(map(is_run, blocks_of(page)))


@pytest.mark.parametrize("page", pages())
def test_every_block_says_what_it_is(page: str) -> None:
    """A block of another kind, with a title that is spelled otherwise, or in a list would be passed over."""
    fences = [line for line in text_of(page).splitlines() if line.lstrip(" >").startswith(("```", "~~~"))]

    assert len(fences) == 2 * len(blocks_of(page))
    assert {block.kind for block in blocks_of(page)} <= {"python", "sh", "console", "text", "ini", "toml"}
