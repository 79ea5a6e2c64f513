"""Classes of a library that fills itself lazily, so that a config that names one is checked without importing it."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.config import sources
from harness.config.names import nearest


@dataclass(frozen=True)
class Library:
    """The classes `PACKAGE.NAME` whose names end with `suffix`.

    table: returns {NAME: the module that defines it}, as the library's own source says; none where it does not.
    unfit: returns what is wrong with a class that is there, as a predicate (`is not …`), or an empty text.
    unnamed: arguments that the classes take though no source names them.
    """

    package: str
    suffix: str
    table: Callable[[], Mapping[str, str]]
    unfit: Callable[[str], str]
    unnamed: Collection[str] = ()

    def has(self, target: str) -> bool:
        """Say whether `target` is written as one of them; it need not exist."""
        package, _, name = target.rpartition(".")
        return package == self.package and name.endswith(self.suffix)

    def defined_in(self, target: str) -> str:
        """Return the dotted name under which the source of `target` is found: itself, for what is no class of these."""
        name = target.removeprefix(f"{self.package}.")
        module = self.table().get(name)
        return f"{module}.{name}" if module else target

    def refusal(self, target: str) -> str:
        """Return what is wrong with `target` as a predicate, or an empty text."""
        if not self.has(target):
            return ""
        name, known = target.rpartition(".")[2], list(self.table())
        return f"does not exist.{nearest(name, known)}" if known and name not in known else self.unfit(name)

    def also_taken(self, target: str) -> Collection[str]:
        """Return arguments that `target` takes though its source does not name them."""
        return self.unnamed if target.startswith(f"{self.package}.") and target.endswith(self.suffix) else ()

    def other_names(self, target: str) -> dict[str, str]:
        """Return what a class calls the usual names: its own `attribute_map`."""
        return _attribute_map(self.defined_in(target))


NONE = Library("", "", dict, lambda name: "")  # of what is found where it says


def library_of(target: str, libraries: Sequence[Library]) -> Library:
    return next((library for library in libraries if target.startswith(f"{library.package}.")), NONE)


@functools.cache
def _attribute_map(target: str) -> dict[str, str]:
    return dict(sources.class_constant(target, "attribute_map") or {})
