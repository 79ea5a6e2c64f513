"""From a source to files that training maps into memory: a tokenizer and the tokens of each split.

    prepared/<fingerprint>/tokenizer.json  tokenizer_config.json  meta.json  and for train and val:
        train.bin            tokens
        train.ends.bin       where each document ends, in tokens, as int64
        train.loss_mask.bin  a byte for each token: does the loss count it? Only where it does not count all of them

The fingerprint covers the content, the split and the tokenizer, so a folder never goes stale and a second start finds
it. The text is read twice as a stream, first for the split's sizes and the tokenizer, then for the tokens; what is in
memory does not grow with it. `harness.run.artifact` says what happens to a folder that is half made or damaged.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tokenizers import Tokenizer

from harness.data.growing import GrowingFiles
from harness.data.split import Sample, as_limit, chosen, refuse_empty, survey
from harness.errors import UserError
from harness.run import artifact
from lm.data.encode import Progress, encode
from lm.data.sources import Document, Source
from lm.data.tokenizer import TokenizerChoice, special_ids, tokenizer_config

log = logging.getLogger(__name__)

FORMAT = 4
CONTENT = attrgetter("content")  # of a document: its text as bytes
# Of training text in memory, for the tokenizer to learn from. More makes it hardly better, and its own tables larger.
SAMPLE_BYTES = 64 << 20


@dataclass(frozen=True)
class Recipe:
    """All that decides what the prepared files hold, besides content and tokenizer. `limit` is as `split.chosen` says;
    `val_fraction` 0 holds nothing out."""

    vocab_size: int
    val_fraction: float
    seed: int
    limit: int | float | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class Prepared:
    """A prepared folder. `meta` counts documents, tokens and bytes of each split; `damage` says what was wrong with the
    folder that this one has just replaced."""

    folder: Path
    meta: dict[str, Any]
    damage: str = ""

    @property
    def dtype(self) -> str:
        return str(self.meta["dtype"])

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @property
    def special_ids(self) -> dict[str, int | None]:
        """What a model's config has to know of the tokenizer: eos_token_id, bos_token_id, pad_token_id."""
        return special_ids(self.tokenizer, self.folder)

    @property
    def tokenizer_files(self) -> dict[str, str]:
        """The files, by name, with which AutoTokenizer.from_pretrained loads a folder."""
        names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        found = [self.folder / name for name in names]
        return {file.name: file.read_text(encoding="utf-8") for file in found if file.is_file()}

    def tokens(self, split: str) -> Path:
        """Return the file of `train` or `val` tokens."""
        return self.folder / f"{split}.bin"

    def ends(self, split: str) -> Path:
        """Return the file that says where each document ends."""
        return self.folder / f"{split}.ends.bin"

    def loss_mask(self, split: str) -> Path | None:
        """Return the file that says which tokens the loss counts, None where it counts all."""
        file = self.folder / f"{split}.loss_mask.bin"
        return file if file.is_file() else None


def prepare_data(cfg: DictConfig, vocab_size: int, *, sums: bool = False) -> Prepared:
    """Return the prepared data of a composed config for a model of `vocab_size`, as its data module would, without
    torch. `sums` compares checksums, too."""
    data = cfg.data
    source, validation = build_sources(data)
    choice = instantiate(data.tokenizer) if data.get("tokenizer") else None
    recipe = Recipe(vocab_size, data.val_fraction, cfg.seed, data.limit)
    return prepare(source, recipe, Path(data.prepared), choice=choice, validation=validation, sums=sums)


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


def documents(source: Source, validation: Source | None, recipe: Recipe) -> Iterator[tuple[str, Document]]:
    """Yield all documents in their order, each with its split. Validation text of its own leaves none to hold out."""
    val_fraction = recipe.val_fraction if validation is None else 0.0
    yield from chosen(source.documents(), CONTENT, recipe.seed, val_fraction, as_limit(recipe.limit))
    if validation is not None:
        yield from (("val", document) for document in validation.documents())


def prepare(
    source: Source,
    recipe: Recipe,
    root: Path,
    *,
    choice: TokenizerChoice | None = None,
    validation: Source | None = None,
    sums: bool = False,
) -> Prepared:
    """Return the prepared folder for a source, made now unless it is there. Validation text comes from `validation`
    where that is given. Raises UserError when a split has no document."""
    choice = choice or TokenizerChoice()
    for each in (source, validation):
        if each is not None:
            each.check()
    content: list[Any] = [source.fingerprint(), validation and validation.fingerprint(), choice.fingerprint()]
    content += [*_extras(source), asdict(recipe)]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    make = functools.partial(_make, source, validation, recipe, choice)
    with artifact.writable(root, instead="data.prepared=FOLDER"):
        prepared = Prepared(root / key, *artifact.obtain(root, key, make, sums=sums))
    size = int(prepared.meta["vocab_size"])
    if size > recipe.vocab_size:
        raise UserError(
            f"The tokenizer has {size:,} tokens, and the model only {recipe.vocab_size:,}.",
            cure=f"Set model.config.vocab_size={size}.",
        )
    return prepared


def encode_only(tokenizer: Tokenizer, end: int, source: Source, folder: Path) -> Prepared:
    """Write all documents of `source` to `folder` as validation text, encoded with a tokenizer that exists already."""
    progress = Progress(getattr(source, "size", 0), tokenizer.get_vocab_size())
    with GrowingFiles(folder) as files:
        encode((("val", document) for document in source.documents()), tokenizer, end, files, progress)
    return Prepared(folder, {"dtype": progress.dtype, "val": progress.splits["val"]})


def _make(
    source: Source, validation: Source | None, recipe: Recipe, choice: TokenizerChoice, folder: Path
) -> dict[str, Any]:
    """Write the files, going on with what an earlier attempt left in `folder`."""
    text = functools.partial(documents, source, validation, recipe)
    with GrowingFiles(folder) as files:
        if files.state is None:
            found = survey(text(), CONTENT, budget=SAMPLE_BYTES, size=getattr(source, "size", None))
            refuse_empty(found.items, recipe.val_fraction, recipe.limit, by_path=validation is not None)
            tokenizer = _write_tokenizer(found.sample, source, recipe, choice, folder)
            progress = Progress(found.total, tokenizer.get_vocab_size())
            files.save(asdict(progress))
        else:
            progress = Progress(**files.state)
            log.info("Going on after %s documents that are prepared already.", f"{progress.documents:,}")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        end = special_ids(tokenizer, folder)["eos_token_id"]
        assert end is not None  # `choice.names` has looked
        encode(text(), tokenizer, end, files, progress)
    train, val = (f"{counts['tokens']:,}" for counts in progress.splits.values())
    log.info("Prepared %s tokens for training and %s for validation.", train, val)
    return {"recipe": asdict(recipe), "dtype": progress.dtype, "vocab_size": progress.vocab_size, **progress.splits}


def _write_tokenizer(
    sample: Sample, source: Source, recipe: Recipe, choice: TokenizerChoice, folder: Path
) -> Tokenizer:
    log.info("The tokenizer (%s) learns from %s documents", choice, f"{len(sample):,}")
    special, template = _extras(source)
    texts = (content.decode("utf-8", "surrogatepass") for content in sample)
    tokenizer = choice.build(texts, recipe.vocab_size, len(sample), special=special)
    config = tokenizer_config(choice.names(tokenizer), special)
    for name, content in (("tokenizer_config.json", config), ("chat_template.jinja", template)):
        if content is not None:
            artifact.write_durably(folder / name, content)
    artifact.write_durably(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    return tokenizer


def _extras(source: Source) -> tuple[list[str], str | None]:
    """Return the special tokens and the chat template of a source, which few have."""
    return list(getattr(source, "special_tokens", ())), getattr(source, "chat_template", None)
