"""Extensions of griffe, which reads the sources for the reference."""

import ast
import re
import textwrap
from collections.abc import Iterator
from typing import Final

from griffe import (
    Alias,
    AliasResolutionError,
    Attribute,
    Docstring,
    Extension,
    Function,
    GriffeLoader,
    Module,
    NameResolutionError,
    Object,
    Parameters,
)

_PACKAGE: Final = "spakky.tracing"
_VERB: Final = re.compile(r"_VERBS\.(\w+)")
_INDENTED: Final = re.compile(
    r"(?<=^\S)(?P<before>.*\n\n)(?P<block>(?: {4}.*(?:\n|\Z)|\n(?= {4}))+)", re.MULTILINE
)
_NAME: Final = re.compile(r"(?<![`\[\w])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])")


class Programs(Extension):
    """Says of an indented block in a docstring that it is Python if it is, so that it has colours."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **_: object) -> None:
        """Rewrite all docstrings."""
        del loader
        for docstring in _docstrings(pkg):
            docstring.value = _INDENTED.sub(_as_program, docstring.value)


class Verbs(Extension):
    """Shows `wrap = _VERBS.wrap` of an integration as the function that it is."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **_: object) -> None:
        """Put functions in the place of such attributes."""
        del loader
        for module in _modules(pkg):
            for name, member in list(module.members.items()):
                found = _VERB.fullmatch(str(member.value)) if isinstance(member, Attribute) else None
                if found:
                    verbs = pkg.get_member(f"{_below(pkg)}boundaries.verbs.Verbs")
                    module.set_member(name, _function(name, verbs.members[found[1]]))


class Links(Extension):
    """Makes a link of each name in a docstring that the reference has."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **_: object) -> None:
        """Rewrite all docstrings."""
        del loader
        for object_ in _objects(pkg):
            if object_.docstring is not None:
                object_.docstring.value = _linked(object_.docstring.value, object_)


def _below(pkg: Module) -> str:
    """Return how the names of our modules begin as seen from *pkg*, which may be the namespace `spakky`."""
    return _PACKAGE.removeprefix(pkg.path).lstrip(".") + "." if pkg.path != _PACKAGE else ""


def _modules(module: Module) -> Iterator[Module]:
    yield module
    for below in module.modules.values():
        if isinstance(below, Module):
            yield from _modules(below)


def _objects(object_: Object) -> Iterator[Object]:
    yield object_
    for member in object_.members.values():
        if not isinstance(member, Alias):
            yield from _objects(member)


def _docstrings(pkg: Module) -> Iterator[Docstring]:
    for object_ in _objects(pkg):
        if object_.docstring is not None:
            yield object_.docstring


def _as_program(found: re.Match[str]) -> str:
    """Return a block, and the line before it, with a fence of Python around it; as it is if it is none."""
    program = textwrap.dedent(found["block"]).strip("\n")
    try:
        ast.parse(program)
    except SyntaxError:
        return found[0]
    return f"{found['before']}```python\n{program}\n```\n"


def _function(name: str, method: Function) -> Function:
    """Return a method as a function of the module that it will be put into."""
    function = Function(
        name,
        lineno=method.lineno,
        endlineno=method.endlineno,
        parameters=Parameters(*list(method.parameters)[1:]),
        returns=method.returns,
    )
    if method.docstring is not None:
        function.docstring = Docstring(
            method.docstring.value, parent=function, parser=method.docstring.parser
        )
    function.overloads = [_function(name, overload) for overload in method.overloads or []]
    return function


def _linked(text: str, scope: Object) -> str:
    """Return a docstring with the names between its backticks as links."""

    def link(found: re.Match[str]) -> str:
        path = _path_of(found[1], scope)
        return f"[{found[0]}][{path}]" if path else found[0]

    return _NAME.sub(link, text)


def _path_of(name: str, scope: Object) -> str | None:
    """Return where the reference has what *name* means in *scope*; `None` if it has nothing of it."""
    for candidate in _meanings(name, scope):
        if candidate is not None and candidate.path != scope.path and _is_shown(candidate):
            return candidate.path
    return None


def _meanings(name: str, scope: Object) -> Iterator[Object | None]:
    """Yield what a name can mean: a full name, a member of *scope*, or what is visible there."""
    root = scope.package
    if name.startswith(_PACKAGE + "."):
        yield _member(root, name.removeprefix(root.path + "."))
    first, _, rest = name.partition(".")
    if first in scope.members:
        yield _member(scope, name)
    try:
        path = scope.resolve(first)
    except NameResolutionError:
        return
    yield _member(root, (path + "." + rest).rstrip(".").removeprefix(root.path + "."))


def _member(of: Object, path: str) -> Object | None:
    try:
        member = of.get_member(path)
        return member.final_target if isinstance(member, Alias) else member
    except (KeyError, AliasResolutionError):
        return None


def _is_shown(object_: Object) -> bool:
    parts = object_.path.split(".")
    is_public = not any(part.startswith("_") or part == "cli" for part in parts)
    return is_public and object_.path.startswith(_PACKAGE) and object_.has_docstring
