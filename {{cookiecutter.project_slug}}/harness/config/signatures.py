"""What a class or function takes, read from its source: a typo is answered before torch is imported.

What cannot be read that way (C extensions, lazily filled modules) counts as open: it may take anything, and Python
itself says so later if not.
"""

import ast
import functools
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from harness.config.schema import Above0, Count, Flag, Number, Positive, Share, Text, Whole
from harness.config.sources import DEEPEST, Definition, NoSuchTarget, definition, find

PLAIN: dict[str, Any] = {"int": Whole, "float": Number, "bool": Flag, "str": Text, "Path": Text, "None": None}
PLAIN |= {"Above0": Above0, "Count": Count, "Positive": Positive, "Share": Share}  # with which our own targets say more
LISTS = {"list", "List", "Sequence", "Iterable"}
MAPPINGS = {"dict", "Dict", "Mapping"}


@dataclass(frozen=True)
class Signature:
    """Argument names with their types (Any where the source says no more). `open`: further ones may be fine, too."""

    arguments: dict[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    open: bool = False


OPEN = Signature(open=True)


@functools.cache
def signature(target: str) -> Signature:
    """Return what `target`, a dotted name, takes. Raises NoSuchTarget."""
    found = find(target)
    return OPEN if found is None else _signature(found, DEEPEST)


def _signature(found: Definition, depth: int) -> Signature:
    node = found.node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return _of_function(node, skip_first=False)
    if not isinstance(node, ast.ClassDef) or depth == 0:
        return OPEN
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        return _of_fields(found, depth)
    own = _of_function(init, skip_first=True)
    if not own.open or not node.bases:
        return own
    bases = [_base(found, base, depth) for base in node.bases]  # **kwargs are handed on to them
    arguments = {name: kind for base in reversed(bases) for name, kind in base.arguments.items()}
    return Signature(arguments | own.arguments, own.required, open=any(base.open for base in bases))


def _of_fields(found: Definition, depth: int) -> Signature:
    """A dataclass has its annotated fields, and those of its bases; another class what its first base takes."""
    node = found.node
    assert isinstance(node, ast.ClassDef)
    bases = [_base(found, base, depth) for base in node.bases]
    inherited = {name: kind for base in reversed(bases) for name, kind in base.arguments.items()}
    if not any("dataclass" in text or "strict" in text for text in map(ast.unparse, node.decorator_list)):
        return Signature(inherited, bases[0].required if bases else (), open=any(base.open for base in bases[:1]))
    own = {n.target.id: n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    fields = {name: n for name, n in own.items() if not ast.unparse(n.annotation).startswith("ClassVar")}
    kinds = {name: kind(n.annotation) for name, n in fields.items()}
    return Signature(inherited | kinds, tuple(name for name, n in fields.items() if n.value is None))


def _base(found: Definition, base: ast.expr, depth: int) -> Signature:
    if isinstance(base, ast.Name) and base.id in ("object", "Generic", "Protocol", "ABC"):
        return Signature()
    try:
        where = definition(f"{found.module}.{ast.unparse(base)}", depth - 1)
    except NoSuchTarget:
        return OPEN
    return OPEN if where is None else _signature(where, depth - 1)


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, *, skip_first: bool) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    optional = len(arguments.defaults)
    without = positional[: len(positional) - optional] if optional else positional
    needed = [a.arg for a in without]
    needed += [a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is None]
    kinds = {a.arg: kind(a.annotation) for a in (*positional, *arguments.kwonlyargs)}
    if skip_first and positional:
        kinds.pop(positional[0].arg)
        needed = [name for name in needed if name != positional[0].arg]
    return Signature(kinds, tuple(needed), open=arguments.kwarg is not None)


def kind(annotation: ast.expr | None) -> Any:
    """Return the type that an annotation names, made of plain ones; Any for what only an import could tell."""
    match annotation:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str() as quoted):
            return kind(ast.parse(quoted, mode="eval").body)
        case ast.Name(id=name):
            return PLAIN.get(name, Any)
        case ast.BinOp(op=ast.BitOr()):
            return _union(kind(annotation.left), kind(annotation.right))
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _generic(name, parts)
    return Any


def _generic(name: str, parts: list[ast.expr]) -> Any:
    if name == "Literal":
        values = [part.value for part in parts if isinstance(part, ast.Constant)]
        return typing.Literal[tuple(values)] if len(values) == len(parts) else Any
    kinds = [kind(part) for part in parts]
    if name == "Optional":
        return _union(kinds[0], None)
    if name == "Union":
        return functools.reduce(_union, kinds)
    if name == "Annotated":
        return kinds[0]
    if name in LISTS:
        return types.GenericAlias(list, (kinds[0],))
    if name in MAPPINGS:
        return types.GenericAlias(dict, (Any, kinds[-1]))
    if name in ("tuple", "Tuple"):
        endless = isinstance(parts[-1], ast.Constant) and parts[-1].value is Ellipsis
        return types.GenericAlias(list, (kinds[0],)) if endless else types.GenericAlias(tuple, tuple(kinds))
    return Any


def _union(one: Any, other: Any) -> Any:
    return Any if one is Any or other is Any else typing.Union[one, other]  # noqa: UP007 (one may be None)
