"""The tests of the project, as pytest collects them."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import pytest

PROJECT: Final = Path(__file__).parents[2]
_INTEGRATIONS: Final = frozenset(
    path.stem for path in (PROJECT / "src/spakky/tracing/integrations").glob("[!_]*.py")
)
_NUMBERS: Final = re.compile(r"(?:[KACTP]-\d\d(?:, )?)+(?=:)")
_WAYS: Final = ("way", "recorded_way", "fitting_way")


@dataclass(frozen=True, slots=True)
class CollectedTest:
    """A test, once for each of its parameters.

    Attributes:
        name: The name of its function.
        file: The file in which it is run, from the project's folder.
        source: The file in which it is written, likewise.
        numbers: The pain points that its docstring begins with.
        way: The way to send or to consume that it runs on; `None` if it is not about one.
        parameters: Its other parameters.
        contracts: The names of the contracts that its class inherits.
    """

    name: str
    file: str
    source: str
    numbers: tuple[str, ...]
    way: str | None
    parameters: tuple[str, ...]
    contracts: frozenset[str]

    @property
    def client(self) -> str | None:
        """The integration whose test it is: a file of tests is named after it, maybe with more words."""
        words = Path(self.file).stem.removeprefix("test_") + "_"
        found = [name for name in _INTEGRATIONS if words.startswith(f"{name}_")]
        return max(found, key=len) if found and self.file.startswith("tests/integrations/") else None


def collect() -> list[CollectedTest]:
    """Collect all tests without running any.

    Raises:
        RuntimeError: They cannot be collected.
    """
    collector = _Collector()
    options = ["--collect-only", "-qqq", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    said = StringIO()
    with redirect_stdout(said):
        code = pytest.main([*options, "--rootdir", str(PROJECT), str(PROJECT / "tests")], plugins=[collector])
    if code != pytest.ExitCode.OK:
        message = f"pytest could not collect the tests ({code}):\n{said.getvalue()}"
        raise RuntimeError(message)
    return collector.tests


class _Collector:
    def __init__(self) -> None:
        self.tests: list[CollectedTest] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tests = [_described(item) for item in session.items if isinstance(item, pytest.Function)]


def _described(item: pytest.Function) -> CollectedTest:
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    found = _NUMBERS.match(item.function.__doc__ or "")
    return CollectedTest(
        name=item.function.__name__,
        file=_from_project(item.path),
        source=_from_project(Path(item.function.__code__.co_filename)),
        numbers=tuple(found[0].split(", ")) if found else (),
        way=next((parameters[name] for name in _WAYS if name in parameters), None),
        parameters=tuple(sorted(parameters)),
        contracts=frozenset(cls.__name__ for cls in item.cls.__mro__) if item.cls else frozenset(),
    )


def _from_project(path: Path) -> str:
    return path.resolve().relative_to(PROJECT).as_posix()
