"""Opens pages in a browser without a window and a network, and looks at them as a person does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from spakky.tracing.cli.view.page import page
from spakky.tracing.cli.view.traces import traces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from selenium.webdriver.remote.webelement import WebElement

    from browser import Browser
    from spakky.tracing.cli.view.traces import DrawnSpan

__all__ = ["Opened", "start"]

_SWITCHES: Final = (
    "--headless=new",
    "--no-sandbox",  # which it has no rights to set up in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_SECONDS: Final = 10
_SHOWN: Final = """
    (selector) => [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility())
"""
_KEEP_FAULTS: Final = """
    window.faults = [];
    addEventListener("error", (event) => faults.push(String(event.message)));
    addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
    addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective));
"""


def start(found: Browser, profile: Path) -> Chrome:
    """Start the browser with a new *profile*."""
    options = ChromeOptions()
    options.binary_location = str(found.program)
    for switch in (*_SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = Chrome(options, ChromeService(str(found.driver)))
    started.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _KEEP_FAULTS})
    return started


class Opened:
    """The page of some spans.

    Args:
        browser: What shows it.
        file: Where it is written.
    """

    def __init__(self, browser: Chrome, file: Path) -> None:
        self.browser = browser
        self._file = file

    def show(self, spans: Iterable[DrawnSpan], *, width: int = 1440, height: int = 900) -> None:
        """Write the page of *spans* and open it in a window of this size."""
        self._file.write_text(page(traces_of(spans), title="spans.jsonl"), encoding="utf-8")
        self.resize(width, height)
        self.emulate(scheme="light")
        self.browser.get("about:blank")
        self.browser.get(self._file.as_uri())

    def resize(self, width: int, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def emulate(self, *, scheme: str, media: str = "") -> None:
        """Prefer light or dark, and show it on a screen or printed."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def press(self, *keys: str) -> None:
        """Press one key after the other."""
        for key in keys:
            ActionChains(self.browser, duration=0).send_keys(key).perform()

    def script(self, source: str, *arguments: object) -> Any:
        return self.browser.execute_script(source, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return what is on the page and not hidden."""
        found: list[WebElement] = self.script(f"return ({_SHOWN})(arguments[0])", selector)
        return found

    def texts(self, selector: str) -> list[str]:
        # What is far out of sight is not laid out, and then has no `innerText`.
        text = "(element) => (element.innerText || element.textContent).trim()"
        found: list[str] = self.script(f"return ({_SHOWN})(arguments[0]).map({text})", selector)
        return found

    def text(self, selector: str) -> str:
        return self.find(selector).text

    @property
    def names(self) -> list[str]:
        """The names of the spans that are shown."""
        return self.texts("#rows .what")

    @property
    def focused(self) -> str:
        """The text of what has the focus, as one line."""
        return " ".join(self.browser.switch_to.active_element.text.split())

    @property
    def selected(self) -> str:
        return self.text("#rows [aria-selected=true] .what")

    def row(self, name: str, number: int = 0) -> WebElement:
        """Return the shown row of a span; *number* counts those of the same name."""
        rows = [place for place, shown in enumerate(self.names) if shown == name]
        return self.all("#rows .row")[rows[number]]

    def log(self, kind: str) -> list[Any]:
        """Return what the browser has logged since this was last asked: `browser` or `performance`."""
        entries: list[Any] = self.browser.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, _SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def faults(self) -> list[str]:
        """Return the errors of scripts, what the policy refused, and what was said to the console."""
        said = [entry["message"] for entry in self.log("browser")]
        return [*self.script("return window.faults"), *said]

    def requested(self) -> set[str]:
        """Return what was fetched since this was last asked, less the page itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
        return urls - {self._file.as_uri(), "about:blank"}
