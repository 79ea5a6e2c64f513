"""Which documents are prepared: those of a source, split, and those of another for validation where there is one."""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.data.documents import Document, Source
from harness.data.split import Survey, as_limit, chosen, refuse_empty, survey
from harness.errors import UserError

CONTENT = attrgetter("content")  # of a document: its text as bytes


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
        yield from chosen(self.source.documents(), CONTENT, self.seed, val_fraction, as_limit(self.limit))
        if self.validation is not None:
            yield from (("val", document) for document in self.validation.documents())

    def survey(self, budget: int) -> Survey:
        """Read everything once, for its size and a sample of `budget` bytes. Raises UserError when a split is empty."""
        found = survey(self.documents(), CONTENT, budget=budget, size=getattr(self.source, "size", None))
        refuse_empty(found.items, self.val_fraction, self.limit, by_path=self.validation is not None)
        return found


def build_sources(data: DictConfig) -> tuple[Source, Source | None]:
    """Return the source of a config's `data`, and that of its `val_path`."""
    validation = validation_source(data)
    return instantiate(data.source), None if validation is None else instantiate(validation)


def validation_source(data: DictConfig) -> DictConfig | None:
    """Return the config of the source for `data.val_path`: the same kind as that of training."""
    if data.get("val_path") is None:
        return None
    if "path" not in data.source:
        raise UserError(
            f"data={data.name} takes no path, so it has no data.val_path either.",
            cure="Hold out a share of the documents with data.val_fraction instead.",
        )
    return OmegaConf.merge(data.source, {"path": data.val_path})  # type: ignore[return-value]
