"""Writes the tables, or compares them: `python -m tables [--check]`."""

import sys
from pathlib import Path

from tables.collected import PROJECT, collect
from tables.coverage import coverage
from tables.pain_points import pain_points

MISSING = "**missing**"


def main(*, only_check: bool) -> None:
    """Write each table where it is not as the tests are, or say so and fail."""
    tests = collect()
    made = {"docs/coverage.md": coverage(tests), "docs/pain-points.md": pain_points(tests)}
    for name, text in made.items():
        if MISSING in text:
            print(f"{name}: {text.count(MISSING)} places are neither tested nor have a reason")
    stale = [name for name, text in made.items() if _read(PROJECT / name) != text]
    if only_check and (stale or any(MISSING in text for text in made.values())):
        sys.exit(
            f"not as the tests are: {', '.join(stale) or 'see above'}; write them with `python -m tables`"
        )
    for name in stale:
        (PROJECT / name).write_text(made[name], encoding="utf-8")
        print(f"written: {name}")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main(only_check="--check" in sys.argv[1:])
