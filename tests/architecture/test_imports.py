"""What importing loads, and what it says if something is missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from architecture.project import PACKAGE, ROOT, module_names, run, settings, short_names

if TYPE_CHECKING:
    from pathlib import Path

INTEGRATIONS = short_names("integrations")
WITHOUT_CLIENT = {"asgi", "environ", "logging", "wsgi"}  # a server calls it, or it is the standard library's
WITH_CLIENT = [name for name in INTEGRATIONS if name not in WITHOUT_CLIENT]

NEEDING_EXTRAS = ("spakky.tracing.integrations.", "spakky.tracing.cli.")

MODULE_OF = {"kafka-python": "kafka", "opentelemetry-api": "opentelemetry"}
# Client libraries that another one loads by itself, some of them only if they are there.
BUILT_UPON = {
    "arq": {"opentelemetry"},
    "celery": {"kombu"},
    "faststream": {"opentelemetry"},
    "rq": {"opentelemetry"},
    "taskiq": {"aiohttp"},
}

LOADED_BESIDES = """
import importlib, sys
before = set(sys.modules)
for name in {names!r}:
    importlib.import_module(name)
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(loaded - sys.stdlib_module_names - {{"spakky"}}))
"""


def required_modules(name: str) -> list[str]:
    """Return the modules of the client libraries that the extra of an integration installs."""
    requirements = settings()["optional-dependencies"][name.replace("_", "-")]
    distributions = [requirement.partition(">")[0] for requirement in requirements]
    return [str(MODULE_OF.get(each, each.replace("-", "_"))) for each in distributions]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["spakky.tracing"], id="package"),
        pytest.param(
            [name for name in module_names() if not name.startswith(NEEDING_EXTRAS)],
            id="all-that-needs-no-extra",
        ),
        pytest.param([f"spakky.tracing.integrations.{name}" for name in WITHOUT_CLIENT], id="no-client"),
    ],
)
def test_importing_loads_nothing_but_the_standard_library(names: list[str]) -> None:
    outcome = run(LOADED_BESIDES.format(names=names))

    assert outcome.stdout.strip() == "[]", outcome.stderr


@pytest.mark.parametrize("name", WITH_CLIENT)
def test_importing_an_integration_loads_its_own_client_library_only(name: str) -> None:
    others = {module for other in WITH_CLIENT if other != name for module in required_modules(other)}
    others -= BUILT_UPON.get(name, set())
    outcome = run(
        f"import sys, spakky.tracing.integrations.{name}\n"
        f"print(sorted(set(sys.modules) & {others - set(required_modules(name))!r}))"
    )

    assert outcome.stdout.strip() == "[]", outcome.stderr


def test_importing_the_package_loads_no_integration() -> None:
    outcome = run(
        "import sys, spakky.tracing\nprint([name for name in sys.modules if 'integrations' in name])"
    )

    assert outcome.stdout.strip() == "[]", outcome.stderr


def test_the_namespace_is_shared_with_other_distributions(tmp_path: Path) -> None:
    (tmp_path / "spakky" / "other").mkdir(parents=True)
    (tmp_path / "spakky" / "other" / "__init__.py").touch()

    outcome = run("import spakky, spakky.other, spakky.tracing; print(spakky.__file__)", tmp_path)

    assert outcome.stdout.strip() == "None", outcome.stderr
    assert not (PACKAGE.parent / "__init__.py").exists()
    assert not (ROOT / "src" / "spakky" / "__init__.py").exists()


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(
    ("name", "module"), [(name, module) for name in WITH_CLIENT for module in required_modules(name)]
)
def test_a_missing_client_library_names_the_command_that_installs_it(name: str, module: str) -> None:
    outcome = run(
        "import sys\n"
        "from spakky.tracing.error import MissingExtraError\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.partition('.')[0] == {module!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "try:\n"
        f"    import spakky.tracing.integrations.{name}\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )

    extra = name.replace("_", "-")
    sentence = f"{module} is not installed: pip install 'spakky-tracing[{extra}]'"
    assert outcome.stdout.strip() == sentence, outcome.stderr


@pytest.mark.parametrize("name", WITH_CLIENT)
@pytest.mark.parametrize(
    ("source", "error"),
    [
        pytest.param("import not_there_at_all", "ModuleNotFoundError: not_there_at_all", id="lacks-a-module"),
        pytest.param("raise RuntimeError('broken')", "RuntimeError: None", id="raises"),
        pytest.param(
            "raise ImportError('no symbol', name='libssl')", "ImportError: libssl", id="lacks-a-symbol"
        ),
    ],
)
def test_a_broken_client_library_raises_its_own_error(
    name: str, source: str, error: str, tmp_path: Path
) -> None:
    (tmp_path / f"{required_modules(name)[0]}.py").write_text(source, encoding="utf-8")

    outcome = run(
        "try:\n"
        f"    import spakky.tracing.integrations.{name}\n"
        "except Exception as error:\n"
        "    print(f\"{type(error).__name__}: {getattr(error, 'name', None)}\")\n",
        tmp_path,
    )

    assert outcome.stdout.strip() == error, outcome.stderr


def test_the_client_libraries_are_here_so_that_the_tests_above_mean_something() -> None:
    for name in WITH_CLIENT:
        importlib.import_module(f"spakky.tracing.integrations.{name}")
