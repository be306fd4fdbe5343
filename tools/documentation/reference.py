"""A hook of mkdocs: a page for each public module, made from its docstrings.

The modules are those that are there, so none can be forgotten. A module is public if no part of its name
begins with an underscore; those of the command line are none, as nobody imports them.
"""

import ast
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE: Final = "spakky.tracing"
FOLDER: Final = "reference"
_GROUPS: Final = {
    "": "Core",
    "integrations": "Integrations",
    "carriers": "Carriers",
    "boundaries": "Boundaries",
}
_NOT_IMPORTED: Final = "cli"
_VERBS: Final = "_VERBS."


@dataclass(frozen=True)
class Module:
    """A public module of the package.

    Attributes:
        name: Its dotted name.
        tree: Its source.
    """

    name: str
    tree: ast.Module

    @property
    def short_name(self) -> str:
        """What it is called in the navigation."""
        return self.name if self.name == PACKAGE else self.name.rpartition(".")[2]

    @property
    def group(self) -> str:
        """The folder below the package that it is in, or that it is; empty for the core."""
        parts = self.name.removeprefix(PACKAGE).split(".")
        return parts[1] if len(parts) > 1 and parts[1] in _GROUPS else ""

    @property
    def page(self) -> str:
        """Where its page is."""
        return f"{FOLDER}/{self.name}.md"

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]

    @property
    def text(self) -> str:
        """The source of its page."""
        borrowed = self._borrowed()
        own = [name for name in self._in_order() if name not in borrowed]
        links = "".join(f"- [`{name}`][{path}]\n" for name, path in borrowed.items())
        also = f"\n## Also here\n\n{links}" if links else ""
        return f"::: {self.name}\n    options:\n      members: {json.dumps(own)}\n{also}"

    def _in_order(self) -> list[str]:
        """Return the names in `__all__` as the source has them, the verbs of all integrations last."""
        bound = {name: value for node in self.tree.body for name, value in _bound_by(node)}
        own = [name for name, value in bound.items() if not value.startswith(_VERBS)]
        listed = self._listed()
        return sorted(listed, key=lambda name: _place(name, [*own, *bound]))

    def _listed(self) -> list[str]:
        """Return the names in `__all__`."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return list(ast.literal_eval(node.value))
        return []

    def _borrowed(self) -> dict[str, str]:
        """Return the listed names that another public module defines, with where they are."""
        imported = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and node.module and is_public(node.module)
            for alias in node.names
        }
        return {name: imported[name] for name in self._listed() if name in imported}


def _bound_by(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement binds, with the text of the value that they get."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name, ""
    elif isinstance(node, ast.Assign):
        yield ast.unparse(node.targets[0]), ast.unparse(node.value)
    elif isinstance(node, ast.AnnAssign):
        yield ast.unparse(node.target), ""


def _place(name: str, order: list[str]) -> int:
    return order.index(name) if name in order else len(order)


def is_public(name: str) -> bool:
    """Tell whether a dotted name is that of a public module of the package."""
    parts = name.removeprefix(PACKAGE).split(".")
    private = [part for part in parts if part.startswith("_") or part == _NOT_IMPORTED]
    return name.startswith(PACKAGE) and not private


def modules(source: Path) -> list[Module]:
    """Return the public modules below the folder *source*, by name."""
    return sorted(_modules(source), key=lambda module: module.name)


def _modules(source: Path) -> Iterator[Module]:
    for path in source.joinpath(*PACKAGE.split(".")).rglob("*.py"):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if is_public(name):
            yield Module(name, ast.parse(path.read_text(encoding="utf-8")))


def overview(found: Iterable[Module]) -> str:
    """Return the source of the page that lists all modules."""
    found = list(found)
    tables = [
        f"## {title}\n\n| module | what it has |\n|---|---|\n"
        + "\n".join(
            f"| [`{module.name.removeprefix(PACKAGE + '.')}`]({module.name}.md) | {module.summary} |"
            for module in found
            if module.group == group
        )
        for group, title in _GROUPS.items()
    ]
    return "\n\n".join(["# Reference", f"All modules are those of `{PACKAGE}`.", *tables]) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, where it says `reference/index.md`."""
    found = modules(_source(config))
    groups = [
        {title: [{module.short_name: module.page} for module in found if module.group == group]}
        for group, title in _GROUPS.items()
    ]
    assert config.nav is not None  # noqa: S101 - mkdocs.yml has one
    for section in config.nav:
        if section.get("Reference") == f"{FOLDER}/index.md":
            section["Reference"] = [f"{FOLDER}/index.md", *groups]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    found = modules(_source(config))
    files.append(File.generated(config, f"{FOLDER}/index.md", content=overview(found)))
    for module in found:
        files.append(File.generated(config, module.page, content=module.text))
    return files


def _source(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent / "src"
