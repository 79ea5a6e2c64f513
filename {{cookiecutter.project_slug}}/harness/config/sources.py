"""Where a dotted name is defined, found in files: nothing is imported.

`importlib.util.find_spec("lightning.pytorch.callbacks")` would import Lightning, and with it torch. So files are found
by their path, and names by following import statements.
"""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEEPEST = 12  # re-exports and base classes followed, so that a circle ends
# A definition with its decorators, which may go over several lines.
BLOCK = r"(?:^@.*\n(?:[ \t)].*\n)*)*^(?:class|def) {}\b.*\n"


class NoSuchTarget(Exception):
    """Nothing of that name exists: `missing` was looked for among `names`."""

    def __init__(self, missing: str, names: list[str]) -> None:
        super().__init__(missing)
        self.missing = missing
        self.names = names


@dataclass(frozen=True)
class Definition:
    module: str
    node: ast.AST


def find(target: str) -> Definition | None:
    """Return where `target` is defined, None where its source does not tell. Raises NoSuchTarget."""
    package, _, rest = target.partition(".")
    if not rest or not all(part.isidentifier() for part in target.split(".")):
        raise NoSuchTarget(target, [])
    if _top(package) is None:
        raise NoSuchTarget(package, [])
    return definition(target, DEEPEST)


def definition(target: str, depth: int) -> Definition | None:
    module, _, name = target.rpartition(".")
    if not module or depth == 0:
        return None
    if source(module) is None:
        outer = definition(module, depth - 1)  # a method of a class, such as from_pretrained
        if isinstance(outer, Definition) and isinstance(outer.node, ast.ClassDef):
            return next((Definition(outer.module, n) for n in outer.node.body if getattr(n, "name", "") == name), None)
        return None
    if block := _block(text(module), name):
        return Definition(module, block)
    tree = parsed(module)
    lazy = False
    for node in _statements(tree.body):
        match node:
            case ast.ClassDef() | ast.FunctionDef() if node.name == name:
                return Definition(module, node)
            case ast.ImportFrom():
                origin = _absolute(node, module)
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return definition(f"{origin}.{alias.name}", depth - 1)
                    lazy |= alias.name == "*"
            case ast.Assign(targets=[ast.Name(id=known)]) if known == name:
                return definition(f"{module}.{node.value.id}", depth - 1) if isinstance(node.value, ast.Name) else None
    if source(target) is not None:
        return None
    if lazy or "sys.modules" in text(module) or "__getattr__" in text(module):
        return None
    raise NoSuchTarget(f"{name} in {module}", sorted(_names(tree)))


def _block(text: str, name: str) -> ast.stmt | None:
    """Return the definition of `name` at the top of a module. The rest of a long file is not parsed: it takes longer
    than all else that is checked."""
    if not (start := re.search(BLOCK.format(name), text, re.MULTILINE)):
        return None
    for end in re.finditer(r"^(?=[^\s#)\]}])|\Z", text[start.end() :], re.MULTILINE):
        try:
            return ast.parse(text[start.start() : start.end() + end.start()]).body[0]
        except SyntaxError:
            continue  # that line is in a text of several lines
    return None


@functools.cache
def source(module: str) -> Path | None:
    """Return the file of a module, None where there is none that can be read."""
    package, *parts = module.split(".")
    for root in _top(package) or []:
        place = root.joinpath(*parts)
        for file in (place / "__init__.py", place.with_suffix(".py") if parts else root.with_suffix(".py")):
            if file.is_file():
                return file
    return None


@functools.cache
def _top(package: str) -> list[Path] | None:
    """Return the folders of a top-level package (or a module's file without its suffix); nothing is imported."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin).with_suffix("")] if spec.origin else []


def class_constant(target: str, name: str) -> Any:
    """Return the value of `name = literal` in the body of a class, None where there is none."""
    try:
        found = find(target)
    except NoSuchTarget:
        return None
    for node in found.node.body if found and isinstance(found.node, ast.ClassDef) else []:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    return None


@functools.cache
def text(module: str) -> str:
    """Return the source of a module, an empty text where there is none that can be read."""
    file = source(module)
    return file.read_text(encoding="utf-8") if file else ""


@functools.cache
def parsed(module: str) -> ast.Module:
    """Return a module's syntax tree, an empty one where the file has mistakes: the import tells them better."""
    try:
        return ast.parse(text(module))
    except SyntaxError:
        return ast.parse("")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield top-level statements, those below `if` and `try` too."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            handlers: list[ast.stmt] = [n for h in getattr(node, "handlers", []) for n in h.body]
            yield from _statements([*node.body, *handlers, *node.orelse])


def _names(tree: ast.Module) -> Iterator[str]:
    for node in _statements(tree.body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    file = source(module)
    parts = module.split(".") if file and file.name == "__init__.py" else module.split(".")[:-1]
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])
