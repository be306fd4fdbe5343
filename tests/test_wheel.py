"""The built wheel, in an environment of its own beside `spakky` core."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LOADED_BESIDES_THE_STANDARD_LIBRARY = """
import sys
before = set(sys.modules)
import spakky.tracing
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names))
"""


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_the_package_and_no_file_of_the_namespace(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert "spakky/tracing/py.typed" in names
    assert "spakky/__init__.py" not in names
    assert {name.split("/")[0] for name in names} == {
        "spakky",
        wheel.name.partition("-py3")[0] + ".dist-info",
    }


def test_it_lives_beside_spakky_core_without_a_file_in_common(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path)
    python = tmp_path / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "spakky", wheel)

    import_both = (
        "import spakky.core, spakky.tracing; print(spakky.tracing.TraceContext.new_root().trace_flags)"
    )
    assert run(python, "-W", "error", "-c", import_both) == "1\n"
    assert run(python, "-c", LOADED_BESIDES_THE_STANDARD_LIBRARY) == "['spakky']\n"
    assert files_of(python, "spakky") & files_of(python, "spakky-tracing") == set()


def files_of(python: Path, distribution: str) -> set[str]:
    code = f"import importlib.metadata as m; print(*m.files({distribution!r}), sep='\\n')"
    return set(run(python, "-c", code).split())
