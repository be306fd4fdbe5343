"""The documentation site as it is built: complete, by itself, and readable where people read it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from architecture.project import module_names
from docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

MODULES: Final = [name for name in module_names() if not name.startswith("spakky.tracing.cli")]
LOADED: Final = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)="([^"]*)"')
IN_STYLE: Final = re.compile(r"url\(\s*[\"']?([^\"')]+)")
PHONE: Final = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
PATIENCE: Final = 30


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "documentation", folder],
        env={"PYTHONPATH": str(ROOT / "tools"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 4,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert (built.returncode, built.stderr) == (0, "")
    assert built.stdout == f"site: {folder / 'index.html'}\n"
    return folder


def said_by(browser: Chrome) -> list[str]:
    """Return what its console has got since it was asked before: errors of scripts and of loading."""
    entries: list[dict[str, str]] = browser.get_log("browser")  # type: ignore[no-untyped-call] # selenium's
    return [entry["message"] for entry in entries]


def pages_of(site: Path) -> list[Path]:
    """Return all pages but the one that a server shows for those that are not there."""
    return sorted(page for page in site.rglob("*.html") if page.name != "404.html")


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_all_that_a_module_lists(module: str, site: Path) -> None:
    page = (site / "reference" / f"{module}.html").read_text(encoding="utf-8")

    assert f'id="{module}"' in page
    for name in getattr(import_module(module), "__all__", []):
        is_here = f'id="{module}.{name}"' in page
        is_linked = re.search(rf'href="[^"]*#spakky\.tracing[\w.]*\.{name}"', page)
        assert is_here or is_linked, f"{module}.{name}"


def test_the_reference_shows_nothing_private(site: Path) -> None:
    for page in (site / "reference").glob("*.html"):
        ids = re.findall(r'id="(spakky\.tracing[\w.]*)"', page.read_text(encoding="utf-8"))
        shown = [each for each in ids if any(part.startswith("_") for part in each.split("."))]

        assert [each for each in shown if not each.endswith("__")] == [], page.name


def test_the_reference_links_types_and_names_in_docstrings(site: Path) -> None:
    page = (site / "reference" / "spakky.tracing.integrations.aiokafka.html").read_text(encoding="utf-8")

    assert re.search(r'See <a [^>]*#spakky\.tracing\.boundaries\.options\.SendOptions"', page)
    assert re.search(r'<span class="n"><a [^>]*#spakky\.tracing\.boundaries\.options\.SendOptions"', page)
    assert 'id="spakky.tracing.integrations.aiokafka.iterate"' in page


def test_the_reference_has_programs_in_colours(site: Path) -> None:
    page = (site / "reference" / "spakky.tracing.integrations.aiokafka.html").read_text(encoding="utf-8")

    assert '<span class="n">aiokafka</span><span class="o">.</span><span class="n">wrap</span>' in page


def test_no_list_is_part_of_the_paragraph_above(site: Path) -> None:
    """Without an empty line between them a list is none, in pages and in docstrings."""
    glued = [
        f"{page.name}: {paragraph}"
        for page in pages_of(site)
        for paragraph in re.findall(r"<p>([^<].*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL)
        if re.search(r"^(?:[-*]|\d+\.) ", paragraph, re.MULTILINE)
    ]
    assert glued == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """It is read without a network, and nobody is told who reads it."""
    found = {
        address
        for page in site.rglob("*.html")
        for address in LOADED.findall(page.read_text(encoding="utf-8"))
    }
    found |= {
        address
        for style in site.rglob("*.css")
        for address in IN_STYLE.findall(style.read_text(encoding="utf-8"))
    }

    assert {address for address in found if re.match(r"(?:\w+:)?//", address)} == set()


def test_two_builds_are_equal(site: Path, tmp_path: Path) -> None:
    assert build(tmp_path).returncode == 0

    built = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    differing = [
        path
        for path in built
        if path.suffix in {".html", ".json", ".js", ".css"}
        and (tmp_path / path).read_bytes() != (site / path).read_bytes()
    ]
    assert differing == []


def test_a_page_fits_a_phone_and_has_no_script_error(site: Path, browser: Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    said_by(browser)  # before it was asked for these
    for page in pages_of(site):
        browser.get(page.as_uri())

        assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"], page
        assert said_by(browser) == [], page
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(
    ("wanted", "first", "then"), [("dark", "slate", "default"), ("light", "default", "slate")]
)
def test_the_reader_has_the_wanted_colours_and_can_switch(
    site: Path, browser: Chrome, wanted: str, first: str, then: str
) -> None:
    scheme = "return document.body.getAttribute('data-md-color-scheme')"
    feature = {"name": "prefers-color-scheme", "value": wanted}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get((site / "index.html").as_uri())
    browser.execute_script("localStorage.clear()")
    browser.refresh()

    assert browser.execute_script(scheme) == first
    browser.find_element(By.CSS_SELECTOR, "label[for^=__palette]:not([hidden])").click()
    WebDriverWait(browser, PATIENCE).until(lambda browser: browser.execute_script(scheme) == then)


def test_a_search_finds_the_page_without_a_server(site: Path, browser: Chrome) -> None:
    browser.set_window_size(1400, 900)
    browser.get((site / "index.html").as_uri())
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").click()
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("retry_headers")

    hits = WebDriverWait(browser, PATIENCE).until(
        lambda browser: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
    )
    targets = [str(hit.get_attribute("href")) for hit in hits]
    assert any("reference/spakky.tracing.boundaries.verbs.html" in target for target in targets)
    assert said_by(browser) == []
