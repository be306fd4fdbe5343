"""What a module offers is what its `__all__` says."""

from __future__ import annotations

import ast
import importlib
from typing import TypeVar

import pytest

from architecture.project import file_of, module_names

MODULES = [module for module in module_names() if file_of(module).name != "__init__.py"]
PACKAGES = [module for module in module_names() if file_of(module).name == "__init__.py"]


PIKAS = {"AMQPError", "ChannelClosedByBroker", "ConnectionClosed"}  # of one module, which alone imports pika


def defined(module: str) -> set[str]:
    """Return the names that *module* binds at its top, other than by importing; no type variables."""
    names: set[str] = set()
    for node in ast.parse(file_of(module).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    values = vars(importlib.import_module(module))
    return {name for name in names if not isinstance(values.get(name), TypeVar)}


def listed(module: str) -> list[str]:
    return list(getattr(importlib.import_module(module), "__all__", []))


def test_there_are_modules_to_look_at() -> None:
    assert "spakky.tracing.context" in MODULES
    assert "spakky.tracing.integrations.aiokafka" in MODULES
    assert "spakky.tracing.integrations.celery" in PACKAGES
    assert "spakky.tracing" in PACKAGES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_lists_all_that_it_defines_publicly(module: str) -> None:
    public = {name for name in defined(module) if not name.startswith("_")}

    assert public - set(listed(module)) == set()


@pytest.mark.parametrize("module", [*MODULES, *PACKAGES])
def test_what_a_module_lists_is_there_and_listed_once_in_order(module: str) -> None:
    names = listed(module)

    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_lists_is_its_own_or_the_core_s(module: str) -> None:
    foreign = set(listed(module)) - defined(module)
    values = vars(importlib.import_module(module))

    re_exported = {name for name in foreign if not isinstance(values[name], TypeVar)}
    assert re_exported <= {"Scope"} | PIKAS


@pytest.mark.parametrize("module", [*MODULES, *PACKAGES])
def test_a_module_says_what_it_is_for(module: str) -> None:
    docstring = importlib.import_module(module).__doc__

    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


def test_the_package_offers_the_core() -> None:
    assert listed("spakky.tracing") == [
        "AbstractSpakkyTracingError",
        "Baggage",
        "ITracePropagator",
        "InvalidTraceparentError",
        "TraceContext",
        "TraceState",
        "W3CTracePropagator",
    ]
