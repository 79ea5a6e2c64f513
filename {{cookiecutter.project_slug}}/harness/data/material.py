"""Which documents are prepared: those of a source, split, and those of another for validation where there is one."""

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, TextIO

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.data.documents import Document, Source
from harness.data.split import Survey, as_limit, chosen, held_out, refuse_empty, survey
from harness.errors import UserError

log = logging.getLogger(__name__)

CONTENT, KEY = attrgetter("content"), attrgetter("key")  # of a document: its text as bytes, and what splits it


@dataclass(frozen=True)
class Material:
    """`val_fraction` of the documents of `source` are held out; none where `validation` has its own. `limit` is as
    `split.chosen` says."""

    source: Source
    validation: Source | None
    val_fraction: float
    seed: int
    limit: int | float | None = None

    def check(self) -> None:
        """Raise UserError when there is nothing to read."""
        for source in (self.source, self.validation):
            if source is not None:
                source.check()

    def fingerprints(self) -> list[str | None]:
        return [self.source.fingerprint(), None if self.validation is None else self.validation.fingerprint()]

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Yield all documents in their order, each with its split."""
        val_fraction = self.val_fraction if self.validation is None else 0.0
        for split, document in chosen(self.source.documents(), KEY, self.seed, val_fraction, as_limit(self.limit)):
            sides = {held_out(medium.data, self.seed, val_fraction) for medium in document.media}
            if len(sides) < 2:
                yield split, document
            else:
                left_out: Any = self.source  # one that reads media knows what is left out
                left_out.on_skip(document.name, "has media of both sides of the split")
        if self.validation is not None:
            yield from (("val", document) for document in self.validation.documents())

    def survey(self, budget: int, skipped: Path | None = None) -> Survey:
        """Read everything once, for its size and a sample of `budget` bytes. What is left out is listed in the file
        `skipped`, which exists if anything is. Raises UserError when a split is empty."""
        with _listed(skipped, self.source, self.validation) as left_out:
            found = survey(self.documents(), CONTENT, budget=budget, size=getattr(self.source, "size", None))
        if left_out and not any(found.items.values()):
            where, why = left_out[0]
            raise UserError(f"All of the text was left out; the first of it: {where} {why}", cure="Mend it.")
        refuse_empty(found.items, self.val_fraction, self.limit, by_path=self.validation is not None)
        return found


@contextmanager
def _listed(file: Path | None, *sources: Source | None) -> Iterator[list[tuple[str, str]]]:
    """Write what the sources leave out to `file`, a JSON object a line, and say how much it is and where. Yields the
    first."""
    first: list[tuple[str, str]] = []
    count = 0
    with ExitStack() as stack:
        stream: TextIO | None = None

        def add(where: str, why: str) -> None:
            nonlocal count, stream
            count += 1
            if count == 1:
                first.append((where, why))
                stream = stack.enter_context(file.open("w", encoding="utf-8")) if file else None
            if stream is not None:
                stream.write(json.dumps({"where": where, "why": why}, ensure_ascii=False) + "\n")

        readers: list[Any] = [source for source in sources if hasattr(source, "on_skip")]
        before = [source.on_skip for source in readers]
        for source in readers:
            source.on_skip = add
        try:
            yield first
        finally:
            for source, listener in zip(readers, before, strict=True):
                source.on_skip = listener
    if count:
        # The folder is hidden while it is made.
        place = f"; {file.parent.with_name(file.parent.name.lstrip('.')) / file.name} lists them" if file else ""
        log.warning("%s rows or files cannot be used and were left out%s.", f"{count:,}", place)


def build_sources(data: DictConfig) -> tuple[Source, Source | None]:
    """Return the source of a config's `data`, and that of its `val_path`."""
    if "source" not in data:
        raise UserError(f"data={data.name} has no documents of its own.", cure="Name one of its sets: data=…")
    validation = validation_source(data)
    return instantiate(training_source(data)), None if validation is None else instantiate(validation)


def training_source(data: DictConfig) -> dict[str, Any]:
    """Return the values of the source of a config's `data`."""
    values: Any = OmegaConf.to_container(data.source, resolve=True)
    return _through(data, values)


def validation_source(data: DictConfig) -> dict[str, Any] | None:
    """Return the values of the source for `data.val_path`: the same kind as that of training."""
    if data.get("val_path") is None:
        return None
    if "path" not in data.source:
        raise UserError(
            f"data={data.name} takes no path, so it has no data.val_path either.",
            cure="Hold out a share of the documents with data.val_fraction instead.",
        )
    values: Any = OmegaConf.to_container(data.source, resolve=True)  # while ${data.on_bad} can be looked up
    return _through(data, {**values, "path": data.val_path})


def _through(data: DictConfig, source: dict[str, Any]) -> dict[str, Any]:
    """Return the values of what `source` goes through: a source that has it as its own `source`."""
    if data.get("through") is None:
        return source
    through: Any = OmegaConf.to_container(data.through, resolve=True)
    return {**through, "source": source}


def build_data_module(data: DictConfig, kept: Collection[str]) -> Any:
    """Build what a config's `data` describes, given all of its keys but those that are `kept` for others to read, and
    the source of its `val_path`."""
    values: Any = OmegaConf.to_container(data, resolve=True)  # while ${data.path} can be looked up
    arguments = {key: value for key, value in values.items() if key not in kept}
    if data.get("through") is not None:
        arguments["source"] = training_source(data)
    if (validation := validation_source(data)) is not None:
        arguments["validation"] = validation
    return instantiate(arguments, _convert_="all")
