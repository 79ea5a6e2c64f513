"""What a declared key may be: kinds of values, and the sections that hold keys."""

import re
from typing import Annotated, Any, ClassVar, TypeGuard

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, Strict

LARGEST = 2**53  # the largest whole number that a float holds exactly: JSON, TensorBoard and schedules use floats


def _no_control_characters(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ValueError("has a control character in it")
    return text


def _folder_name(name: str) -> str:
    if not name.strip(" .") or re.search(r'[/\\:*?"<>|]', name) or name != name.strip() or name.endswith("."):
        raise ValueError("is not the name of a folder: take letters, digits and - _ . = (run.root says where it lies)")
    if len(name.encode("utf-8", "surrogatepass")) > 200:
        raise ValueError("is too long for the name of a folder: take at most 200 characters")
    return name


def _batches(value: float) -> float:
    if isinstance(value, float) and value > 1:
        raise ValueError("is more than all: a number with a point is a share (at most 1.0), one without counts batches")
    return value


def not_none(value: Any) -> Any:
    if value in (0, "0"):
        raise ValueError("is no device at all: take 1 or more, -1 for all, or a list such as [0,1]")
    return value


Whole = Annotated[int, Strict(), Ge(-LARGEST), Le(LARGEST)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, AfterValidator(_no_control_characters)]
Count = Annotated[Whole, Ge(0)]
Positive = Annotated[Whole, Ge(1)]
Amount = Annotated[Number, Ge(0)]
Above0 = Annotated[Number, Gt(0)]
Share = Annotated[Number, Ge(0), Le(1)]
FolderName = Annotated[Text, AfterValidator(_folder_name)]
Batches = Annotated[Whole | Number, Ge(0), AfterValidator(_batches)]
Duration = Annotated[str, Field(pattern=r"^\d+:\d+:\d+:\d+$")]
Anything = dict[Any, Any]


def key(doc: str) -> Any:
    """Declare a key that the YAML files give a value."""
    return Field(description=doc)


def extra(doc: str) -> Any:
    """Declare a key that may be absent: the library that it goes to has a value of its own."""
    return Field(default=None, description=doc)


class Section(BaseModel):
    """A mapping in the config. `kept`: keys that its `_target_` is not given; None where nobody hands keys on."""

    model_config = ConfigDict(defer_build=True)  # never built whole: each key is checked alone
    kept: ClassVar[frozenset[str] | None] = None


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    return isinstance(kind, type) and issubclass(kind, Section)
