"""Apache Kafka's jars, fetched once with Maven into the project's folder .brokers."""

import re
import tempfile
from contextlib import suppress
from pathlib import Path

from brokers.executables import find_executable
from brokers.quietly import run_quietly
from brokers.run import Report
from brokers.unavailable import Unavailable

POM = Path(__file__).with_name("pom.xml")
PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / ".brokers" / "kafka"
FETCH_SECONDS = 300


def version() -> str:
    """Read from the pom which version of Kafka it is."""
    named = re.search(r"<kafka\.version>(.+?)<", POM.read_text())
    if not named:
        message = f"{POM} has to name kafka.version"
        raise ValueError(message)
    return named[1]


def fetch(report: Report) -> Path:
    """Give the folder with the jars; fetch them first unless they are there.

    Raises:
        Unavailable: Maven is not installed, or cannot fetch them.
    """
    complete = FOLDER / version()
    if not complete.exists():
        report(f"kafka: fetching Apache Kafka {version()} with Maven into {FOLDER.relative_to(PROJECT)} ...")
        _fetch_into(complete)
    return complete


def _fetch_into(complete: Path) -> None:
    complete.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=complete.parent) as unfinished:
        jars = Path(unfinished, "jars")
        _run_maven(jars)
        # Whoever fetches at the same time may have been faster, with the same jars.
        with suppress(OSError):
            jars.rename(complete)


def _run_maven(jars: Path) -> None:
    maven = find_executable("mvn")
    if not maven:
        raise Unavailable(reason="Maven is not installed", remedy="install Java 17 or later and Maven")
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
    command = [str(maven), "--quiet", "--batch-mode", "--file", str(POM), *goal]
    run_quietly(command, "fetch Kafka", FETCH_SECONDS)
