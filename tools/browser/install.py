"""Makes this machine ready to run the browser: `python -m browser.install`.

As root on Debian it installs the packages; elsewhere it says what is missing.
"""

from brokers import debian
from brokers.run import Report
from brokers.search import print_to_stderr
from brokers.unavailable import Failed, Unavailable
from browser.search import explain, find

PACKAGES = ("chromium", "chromium-driver")


def main() -> None:
    """Install the browser unless it is there."""
    try:
        prepare(print_to_stderr)
    except Unavailable as refusal:
        print_to_stderr(explain(refusal))


def prepare(report: Report) -> None:
    """Install what `find` does not find.

    Raises:
        Unavailable: It cannot be installed here.
    """
    try:
        find()
    except Unavailable as missing:
        _install(missing, report)
        find()


def _install(missing: Unavailable, report: Report) -> None:
    for package in PACKAGES:
        try:
            debian.install(package, report)
        except Failed:
            raise
        except Unavailable:  # not here: then what is missing is the better answer
            raise missing from None


if __name__ == "__main__":
    main()
