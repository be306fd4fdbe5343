"""The search for Chromium and its driver."""

from dataclasses import dataclass
from pathlib import Path

from brokers.executables import find_executable
from brokers.unavailable import Unavailable

# Under the names that Debian and others give them.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DRIVER = "chromedriver"


@dataclass(frozen=True)
class Browser:
    """A browser without a window.

    Attributes:
        program: Chromium, or Chrome.
        driver: What steers it, of the same version.
    """

    program: Path
    driver: Path


def find() -> Browser:
    """Give the browser.

    Raises:
        Unavailable: It or its driver is not installed.
    """
    program = next(filter(None, map(find_executable, BROWSERS)), None)
    driver = find_executable(DRIVER)
    if program is None or driver is None:
        missing = "Chromium" if program is None else "Chromium's driver"
        raise Unavailable(
            reason=f"{missing} is not installed",
            remedy="install Chromium and chromedriver (on Debian the packages chromium and chromium-driver)",
        )
    return Browser(program, driver)


def explain(refusal: Unavailable) -> str:
    """Put into one sentence why the browser is missing and how to get it."""
    remedy = f"; to have it, {refusal.remedy}" if refusal.remedy else ""
    return f"The browser is left out, because {refusal.reason}{remedy}."
