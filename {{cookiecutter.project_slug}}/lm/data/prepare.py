"""From a source to files that training maps into memory: a tokenizer and the tokens of each split.

    prepared/<fingerprint>/tokenizer.json  tokenizer_config.json  meta.json
                           train.bin  train.ends.bin  train.loss_mask.bin  and the same for val: harness/data/numbers.py

The fingerprint covers the content, the split and the tokenizer, so a folder never goes stale and a second start finds
it. The text is read twice as a stream, first for the split's sizes and the tokenizer, then for the tokens; what is in
memory does not grow with it. `harness.run.artifact` says what happens to a folder that is half made or damaged.
"""

import functools
import itertools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from tokenizers import Tokenizer

from harness.data import numbers
from harness.data.arrays import ArraySource
from harness.data.material import Material, build_sources
from harness.data.numbers import Encode, Numbers
from harness.data.split import Sample
from harness.errors import UserError
from harness.run import artifact
from harness.tokenizer_files import tokenizer_config, tokenizer_files
from lm.data.chat import ChatSource, Template
from lm.data.encode import encoder
from lm.data.sources import Source
from lm.data.tokenizer import NOT_REPEATABLE, TokenizerChoice, special_ids

log = logging.getLogger(__name__)

FORMAT = 4
# Of training text in memory, for the tokenizer to learn from. More makes it hardly better, and its own tables larger.
SAMPLE_BYTES = 64 << 20
INSTEAD = "data.prepared=FOLDER"

Extras = tuple[list[str], str | None]  # special tokens, a chat template


@dataclass(frozen=True)
class Recipe:
    """All that decides what the prepared files hold, besides content and tokenizer. `limit` is as `split.chosen` says;
    `val_fraction` 0 holds nothing out."""

    vocab_size: int
    val_fraction: float
    seed: int
    limit: int | float | None = None
    format: int = FORMAT


class Prepared(Numbers):
    """A prepared folder: its numbers are tokens, and it has their tokenizer. `meta` counts documents, tokens and bytes
    of each split."""

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @property
    def special_ids(self) -> dict[str, int | None]:
        """What a model's config has to know of the tokenizer: eos_token_id, bos_token_id, pad_token_id."""
        return special_ids(self.tokenizer, self.folder)

    @property
    def tokenizer_files(self) -> dict[str, str]:
        return tokenizer_files(self.folder)


def prepare_data(cfg: DictConfig, vocab_size: int, *, sums: bool = False) -> Prepared:
    """Return the prepared data of a composed config for a model of `vocab_size`, as its data module would, without
    torch. `sums` compares checksums, too."""
    data = cfg.data
    source, validation = build_sources(data)
    choice = instantiate(data.tokenizer) if data.get("tokenizer") else None
    recipe = Recipe(vocab_size, data.val_fraction, cfg.seed, data.limit)
    return prepare(source, recipe, Path(data.prepared), choice=choice, validation=validation, sums=sums)


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
    material = Material(source, validation, recipe.val_fraction, recipe.seed, recipe.limit)
    material.check()
    for each in (source, validation):
        _introduce(each, choice)
    if choice.kind in NOT_REPEATABLE and choice.file is None:
        # By its content: with another one the same text is other data, and a run does not go on with it unnoticed.
        choice = TokenizerChoice(path=str(shared_tokenizer([(material, 1.0)], recipe, root, choice)))
    content: list[Any] = [*material.fingerprints(), choice.fingerprint(), *_extras(source), asdict(recipe)]
    make = functools.partial(_make, material, recipe, choice)
    prepared = Prepared(*artifact.made_of(root, content, make, instead=INSTEAD, sums=sums))
    size = int(prepared.meta["vocab_size"])
    if size > recipe.vocab_size:
        raise UserError(
            f"The tokenizer has {size:,} tokens, and the model only {recipe.vocab_size:,}.",
            cure=f"Set model.config.vocab_size={size}.",
        )
    return prepared


def _introduce(source: Source | None, choice: TokenizerChoice) -> None:
    """Tell files of tokens which of them there are, and conversations the chat template that the tokenizer has. Raises
    UserError for tokens without a tokenizer."""
    if isinstance(source, ArraySource) and choice.file is None:
        raise UserError(
            "data=tokens needs the tokenizer that its files were made with.",
            cure="Name its tokenizer.json, or the folder: data.tokenizer.path=PATH.",
        )
    if isinstance(source, ArraySource):
        tokenizer, _, end = _given(choice)
        source.use(end=end, below=tokenizer.get_vocab_size())
    elif isinstance(source, ChatSource) and choice.template is not None:
        tokenizer, names, _ = _given(choice)
        source.use(Template(choice.template, names, tokenizer))


def _given(choice: TokenizerChoice) -> tuple[Tokenizer, dict[str, str], int]:
    """Return a tokenizer that there is already, its special tokens by role, and the one that ends a text."""
    tokenizer = choice.build((), 0, 0)
    names = choice.names(tokenizer)
    end = tokenizer.token_to_id(names["eos"])
    assert end is not None  # `names` has looked
    return tokenizer, names, end


def shared_tokenizer(
    materials: Sequence[tuple[Material, float]], recipe: Recipe, root: Path, choice: TokenizerChoice
) -> Path:
    """Return the folder of one tokenizer for several sets, which learns from a share of text of each."""
    for material, _ in materials:
        _introduce(material.source, choice)
    extras = [_extras(material.source) for material, _ in materials]
    special = list(dict.fromkeys(token for tokens, _ in extras for token in tokens))
    template = next((template for _, template in extras if template), None)
    content: list[Any] = [[*material.fingerprints(), share] for material, share in materials]
    content += [choice.fingerprint(), special, template, asdict(recipe)]

    def make(folder: Path) -> dict[str, Any]:
        samples = [material.survey(int(SAMPLE_BYTES * share)).sample for material, share in materials]
        tokenizer = _write_tokenizer(list(itertools.chain(*samples)), (special, template), recipe, choice, folder)
        return {"recipe": asdict(recipe), "vocab_size": tokenizer.get_vocab_size()}

    return artifact.made_of(root, content, make, instead=INSTEAD)[0]


def encode_only(choice: TokenizerChoice, source: Source, folder: Path) -> Prepared:
    """Write all documents of `source` to `folder` as validation text, encoded with a tokenizer that exists already."""
    _introduce(source, choice)
    tokenizer, _, end = _given(choice)
    encode = encoder(tokenizer, end, source)
    return Prepared(folder, numbers.write(source, "val", folder, encode, tokenizer.get_vocab_size()).counts("tokens"))


def _make(material: Material, recipe: Recipe, choice: TokenizerChoice, folder: Path) -> dict[str, Any]:
    """Write the files, going on with what an earlier attempt left in `folder`."""

    def begin(sample: Sample) -> int:
        return _write_tokenizer(list(sample), _extras(material.source), recipe, choice, folder).get_vocab_size()

    def encode() -> Encode:
        tokenizer, _, end = _given(TokenizerChoice(path=str(folder)))
        return encoder(tokenizer, end, material.source)

    progress = numbers.prepare(material, folder, begin, encode, sample=SAMPLE_BYTES)
    train, val = (f"{counts['numbers']:,}" for counts in progress.splits.values())
    log.info("Prepared %s tokens for training and %s for validation.", train, val)
    return {"recipe": asdict(recipe), "vocab_size": progress.distinct, **progress.counts("tokens")}


def _write_tokenizer(
    sample: list[bytes], extras: Extras, recipe: Recipe, choice: TokenizerChoice, folder: Path
) -> Tokenizer:
    log.info("The tokenizer (%s) learns from %s documents", choice, f"{len(sample):,}")
    special, template = extras
    template = choice.template if template is None else template
    texts = (content.decode("utf-8", "surrogatepass") for content in sample)
    tokenizer = choice.build(texts, recipe.vocab_size, len(sample), special=special)
    config = tokenizer_config(choice.names(tokenizer), special)
    for name, content in (("tokenizer_config.json", config), ("chat_template.jinja", template)):
        if content is not None:
            artifact.write_durably(folder / name, content)
    artifact.write_durably(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    return tokenizer


def _extras(source: Source) -> Extras:
    """Return the special tokens and the chat template of a source, which few have."""
    return list(getattr(source, "special_tokens", ())), getattr(source, "chat_template", None)
