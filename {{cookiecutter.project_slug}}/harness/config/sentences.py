"""What pydantic finds wrong with a value, in a sentence that repeats the key and the value as they were typed."""

import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ValidationError

from harness.config.names import nearest

RANGES = {
    "greater_than_equal": ("too small: the least is {ge}", "ge"),
    "greater_than": ("too small: it must be above {gt}", "gt"),
    "less_than_equal": ("too large: the most is {le}", "le"),
}
# Values of other tools, nearer to something else in their letters than to what they mean.
MEANT = {"fp16": "16-mixed", "float16": "16-mixed", "bfloat16": "bf16-mixed", "fp32": "32-true", "float32": "32-true"}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
MOST_CHOICES = 8  # named in a sentence


def explain(key: str, value: Any, kind: Any, error: ValidationError, doc: str) -> str:
    """Return the sentence for a value that does not fit."""
    errors = error.errors(include_url=False)
    first = errors[0]
    if isinstance(value, dict) and first["loc"] and not isinstance(value.get(first["loc"][0]), dict):
        key, value = f"{key}.{first['loc'][0]}", value.get(first["loc"][0])
    for item in errors:
        if item["type"] in RANGES:
            text, limit = RANGES[item["type"]]
            return f"{key}={show(value)} is {text.format(**{limit: show(item['ctx'][limit])})}."
        if item["type"] == "value_error":
            return f"{key}={show(value)} {item['ctx']['error']}."
    if choices := list(_choices(kind)):
        others = " or ".join(words for words in _kinds(kind) if words not in ("a text", "a mapping"))
        meant = MEANT.get(str(value), "")
        near = nearest(str(value), [str(choice) for choice in choices]) if isinstance(value, str) else ""
        guess = f" Did you mean {meant}?" if meant in choices else near
        names = list(dict.fromkeys(show(choice) for choice in choices))
        options = (
            ", ".join(names[:MOST_CHOICES]) + ", …" * (len(names) > MOST_CHOICES) + (f" or {others}" if others else "")
        )
        return f"{key}={show(value)} is none of {options}.{guess}"
    return f"{key}={show(value)} is not {' or '.join(dict.fromkeys(_kinds(kind)))}" + (f" ({doc})." if doc else ".")


def show(value: Any) -> str:
    """Return a value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _kinds(kind: Any) -> Iterator[str]:
    """Yield in words what a type takes."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        yield from _kinds(typing.get_args(kind)[0])
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(kind):
            yield from _kinds(part)
    elif origin is Literal:
        return
    elif origin in (list, tuple) or kind is list:
        size = len(typing.get_args(kind)) if origin is tuple else 0
        yield f"a list of {size}" if size else "a list"
    elif origin is dict or kind is dict:
        yield "a mapping"
    else:
        yield WORDS.get(kind, str(kind))


def _choices(kind: Any) -> Iterator[Any]:
    if typing.get_origin(kind) is Literal:
        yield from typing.get_args(kind)
    else:
        for part in typing.get_args(kind):
            yield from _choices(part)
