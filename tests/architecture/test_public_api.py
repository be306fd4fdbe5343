"""Integrations use what their client libraries offer to everybody, and patch nothing."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from architecture.project import PACKAGE, short_names

if TYPE_CHECKING:
    from collections.abc import Iterator

INTEGRATIONS = short_names("integrations")
OUR_OWN = "spakky.tracing"


def tree_of(name: str) -> ast.Module:
    """Return the source of an integration; one of several files is one tree."""
    folder = PACKAGE / "integrations"
    files = sorted((folder / name).glob("*.py")) or [folder / f"{name}.py"]
    return ast.parse("\n".join(path.read_text(encoding="utf-8") for path in files))


def is_private(name: str) -> bool:
    """Tell private names from special ones, from constants (confluent's), and from those of a named tuple."""
    is_special = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and not is_special and not name.isupper() and name != "_replace"


def private_attributes(tree: ast.Module) -> Iterator[str]:
    """Yield the private attributes of anything but `self` and `cls` that are read or written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in {"self", "cls"}):
                yield ast.unparse(node)


def private_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(OUR_OWN):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        else:
            continue
        yield from (name for name in names if is_private(name))


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_an_integration_uses_the_public_api_of_its_client_library_only(name: str) -> None:
    tree = tree_of(name)

    assert list(private_attributes(tree)) == []
    assert list(private_imports(tree)) == []


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_an_integration_patches_nothing(name: str) -> None:
    """K-24, A-13, A-14: what is wrapped is an object of ours, the client's own stays as it is."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(OUR_OWN)
        for alias in node.names
    }
    written = [
        ast.unparse(target)
        for node in ast.walk(tree_of(name))
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute)
    ]

    assert [target for target in written if target.split(".")[0] in imported] == []
