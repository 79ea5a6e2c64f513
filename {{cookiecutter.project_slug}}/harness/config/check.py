"""Is every value of a composed config of the right type, in its range, and usable on this machine?

What a section declares is checked by pydantic; what a `_target_` takes is read from its source (signatures.py), so that
a callback or an optimizer of one's own is checked like ours. Nothing heavy is imported and nothing is written.
"""

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from harness.config import schema
from harness.config.compose import hydra_errors_as_user_errors, known_keys
from harness.config.habits import HABITS
from harness.config.kinds import Section, is_section
from harness.config.library import library_of
from harness.config.names import nearest
from harness.config.sentences import explain, show
from harness.config.signatures import Signature, signature
from harness.config.sources import NoSuchTarget
from harness.errors import UserError

HYDRAS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
OURS = ("harness.", "lm.", "media.")
LIBRARIES = {"MLFlowLogger": "mlflow", "CometLogger": "comet_ml"}  # Lightning's loggers that no extra of ours brings
CLOSE = 0.85  # where a target takes anything, only what is this near to one of its own names is a typo


def check(cfg: DictConfig) -> None:
    """Raise one UserError that lists everything wrong with `cfg`. Numbers given for texts become texts in `cfg`."""
    keys = schema.declared(cfg)
    plain = OmegaConf.to_container(cfg, resolve=False)
    if amiss := list(_structure(keys, plain, "")):  # else what interpolates it would be blamed
        raise UserError("\n".join(amiss))
    with hydra_errors_as_user_errors():
        container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    checker = Checker(keys, container)
    complaints = list(dict.fromkeys(checker.all()))
    if not complaints:
        checker.write_back(cfg)
        complaints = list(checker.keys.complaints(cfg))
    if complaints:
        raise UserError("\n".join(complaints))


class Checker:
    """Walks a resolved config once for its sections and once for its targets."""

    def __init__(self, keys: type[schema.Root], container: dict[Any, Any]) -> None:
        self.keys = keys
        self.container = container
        self.texts: dict[str, str] = {}  # numbers that were given where a text belongs

    def all(self) -> Iterator[str]:
        yield from self._section(self.keys, self.container, "")
        yield from self._strangers()
        for group in ("callbacks", "logger"):
            yield from self._entries(group)
        for name, value in self.container.items():
            yield from self._targets(name, value)

    def write_back(self, cfg: DictConfig) -> None:
        with open_dict(cfg):
            for key, text in self.texts.items():
                OmegaConf.update(cfg, key, text)

    def _section(self, model: type[Section], node: Mapping[Any, Any], prefix: str) -> Iterator[str]:
        for name, info in model.model_fields.items():
            key = f"{prefix}{name}"
            inner = info.annotation
            if name not in node:
                continue
            if is_section(inner):
                yield from self._section(inner, node[name], f"{key}.")
            else:
                yield from self._value(key, node[name], _whole(info), info.description or "")
        if prefix and "_target_" not in node:
            known = list(model.model_fields)
            for name in node:
                if name not in known and name not in HYDRAS:
                    yield self._no_key(f"{prefix}{name}", [f"{prefix}{field}" for field in known])

    def _strangers(self) -> Iterator[str]:
        """Keys of one's own at the top are fine, for interpolations; what looks like one of ours is a typo."""
        known = list(self.keys.model_fields)
        for name, value in self.container.items():
            if name == "experiment" and isinstance(value, dict):
                yield "A file in conf/experiment/ lacks its first line: # @package _global_"
            elif name not in known and nearest(str(name), known):
                yield self._no_key(str(name), known)

    def _entries(self, group: str) -> Iterator[str]:
        entries: Any = self.container.get(group)
        for name, entry in (entries if isinstance(entries, dict) else {}).items():
            if isinstance(entry, dict) and "_target_" not in entry:
                others = [f"{group}.{other}" for other in entries if other != name]
                guess = nearest(f"{group}.{name}", others)
                yield f"{group}.{name} has no _target_, which names its class.{guess}"

    def _targets(self, key: str, node: Any) -> Iterator[str]:
        if isinstance(node, list):
            for number, item in enumerate(node):
                yield from self._targets(f"{key}[{number}]", item)
        if not isinstance(node, dict):
            return
        for name, value in node.items():
            yield from self._targets(f"{key}.{name}", value)
        if "_target_" in node:
            yield from self._target(key, node)

    def _target(self, key: str, node: dict[Any, Any]) -> Iterator[str]:
        target = node["_target_"]
        info = self.keys.model_fields.get(key)
        section = info.annotation if info else None
        fields = set(section.model_fields) if is_section(section) else set()
        if section is schema.Trainer and set(node) <= fields | HYDRAS and target == "lightning.pytorch.Trainer":
            return  # its source is long, and everything in it is known
        if not isinstance(target, str):
            yield f"{key}._target_={show(target)} is not the dotted name of a class or a function."
            return
        home = library_of(target, self.keys.libraries)
        if refusal := home.refusal(target):
            yield f"{key}._target_={target} {refusal}"
            return
        try:
            found = signature(home.defined_in(target))
        except NoSuchTarget as error:
            yield f"{key}._target_={target} does not exist: there is no {error.missing}.{nearest(target, error.names)}"
            return
        library = LIBRARIES.get(target.rpartition(".")[2])
        if library and target.startswith("lightning.") and importlib.util.find_spec(library) is None:
            package = library.replace("_", "-")
            yield f"{key}._target_={target} needs a library that is not here. Type: pip install {package}"
        if is_section(section) and section.kept is not None:
            fields = set(section.kept)
        yield from self._arguments(key, node, found, fields)

    def _arguments(self, key: str, node: dict[Any, Any], found: Signature, fields: set[str]) -> Iterator[str]:
        target = node["_target_"]
        home = library_of(target, self.keys.libraries)
        for name, value in node.items():
            if name in HYDRAS or name in fields or name in home.also_taken(target):
                continue
            if name in found.arguments:
                yield from self._argument(f"{key}.{name}", value, found.arguments[name], target)
            elif other := home.other_names(target).get(str(name)):
                yield f"There is no key {key}.{name} here: {target} calls it {other}. Type {key}.{other}={show(value)}."
            elif not found.open or nearest(str(name), list(found.arguments), cutoff=CLOSE):
                takes = [other for other in found.arguments if other in node or other not in found.required]
                near = [f"{key}.{argument}" for argument in (*takes, *fields) if argument != name]
                yield self._no_key(f"{key}.{name}", near, why=f" {target} takes no {name}.")
        if key.startswith("callbacks.") and "_args_" not in node:
            for name in found.required:
                if name not in node:
                    yield f"{key}.{name} is missing: {target} needs it."

    def _argument(self, key: str, value: Any, kind: Any, target: str) -> Iterator[str]:
        if isinstance(value, dict) and "_target_" in value:
            return  # what is built from it is known only then
        said = list(self._value(key, value, kind, ""))
        yield from said
        negative = isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0
        if negative and not said and target.startswith(OURS):  # no option of ours counts below nothing
            yield f"{key}={show(value)} is too small: the least is 0."

    def _value(self, key: str, value: Any, kind: Any, doc: str) -> Iterator[str]:
        if kind is Any:
            return
        try:
            fine = adapter(kind).validate_python(value)
        except ValidationError as error:
            yield explain(key, value, kind, error, doc)
            return
        if isinstance(fine, str) and not isinstance(value, str):
            self.texts[key] = fine

    def _no_key(self, key: str, near: list[str], why: str = "") -> str:
        name = key.rpartition(".")[2]
        habit = self.keys.habits.get(name) or HABITS.get(name, "")
        beside = {other.rpartition(".")[2]: other for other in near}
        close = get_close_matches(name, beside, n=1, cutoff=0.6)
        guess = f" Did you mean {habit}?" if habit else f" Did you mean {beside[close[0]]}?" if close else ""
        guess = guess or nearest(name, [known for known in known_keys() if known != key], cutoff=0.75)
        cure = "" if guess or not why else f" Leave it out with ~{key}."
        return f"There is no key {key!r}.{guess}{why}{cure}"


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config={"coerce_numbers_to_str": True})


def _structure(model: type[Section], node: Any, prefix: str) -> Iterator[str]:
    """Yield which groups and keys are not there at all."""
    if not isinstance(node, dict):
        keys = ", ".join(f"{prefix}{field}" for field in list(model.model_fields)[:3])
        yield f"{prefix.rstrip('.')}={show(node)} is not a group of keys: there are {keys}, …"
        return
    for name, info in model.model_fields.items():
        inner = info.annotation
        if name not in node and info.is_required():
            group = prefix.rstrip(".")
            files = f" A file in conf/{group}/ can begin with defaults: [base, _self_]." if group else ""
            yield f"{prefix}{name} is missing: {info.description or 'every run has that group of keys'}.{files}"
        elif name in node and is_section(inner):
            yield from _structure(inner, node[name], f"{prefix}{name}.")


def _whole(info: FieldInfo) -> Any:
    """Return a field's type with its limits."""
    kind: Any = info.annotation
    for limit in info.metadata:
        kind = Annotated[kind, limit]
    return kind
