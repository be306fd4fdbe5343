"""The code of `docs/http.md` as it stands, with the address of a server put in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from contract.contexts import TRACEPARENT
from contract.receiving import SENDER
from docs.pages import programs_of
from docs.running import printed_by
from integrations.http_servers import noting, serving_wsgi

if TYPE_CHECKING:
    from pathlib import Path

SERVE, CALL, HOOK = programs_of("docs/http.md")


@pytest.mark.parametrize(("path", "is_continued"), [("orders", True), ("webhooks", False)])
def test_a_request_is_served_in_the_trace_of_its_caller(path: str, *, is_continued: bool) -> None:
    page: dict[str, Any] = {}
    exec(SERVE, page)  # noqa: S102 - it is the page's own code

    with serving_wsgi(page["application"]) as url:
        response = httpx.get(f"{url}/{path}", headers={"traceparent": TRACEPARENT})

    assert (response.text == SENDER.trace_id) is is_continued


@pytest.mark.parametrize(
    ("code", "paths"), [(CALL, {"/sync", "/httpx", "/aiohttp"}), (HOOK, {"/hook"})], ids=["call", "hook"]
)
def test_requests_are_sent_in_the_trace_of_their_sender(code: str, paths: set[str], tmp_path: Path) -> None:
    with noting() as server:
        printed = printed_by(code.replace("http://localhost:8000", server.elsewhere), tmp_path)
        arrived = [server.arrived() for _ in paths]

    assert {each.path for each in arrived} == paths
    traces = {each.headers["traceparent"][0].split("-")[1] for each in arrived}
    assert [*traces] == printed
