"""The tokenizer of a run: trained on its training documents, or given. `data.tokenizer` builds a `TokenizerChoice`, or
a class of one's own with the same three methods.

Its special tokens are names in tokenizer_config.json, beside tokenizer.json, as transformers' AutoTokenizer reads them.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.errors import UserError
from harness.hub import found_file
from harness.tokenizer_files import ROLES, chat_template, special_tokens

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
# Ends of text that published tokenizers use, where no tokenizer_config.json says which.
KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[EOS]", "[SEP]")
KINDS = ("bpe", "unigram", "bytes", "characters")
# Two trainings of `tokenizers` on one text differ in which of two tokens that are worth the same they keep.
NOT_REPEATABLE = ("unigram",)

# No merge crosses the border of a piece: a word with the space before it, one digit (as in Llama 1), punctuation, line
# ends apart from the indentation after them (as in Llama 3). GPT-2's pattern joins those two; the bits per byte of
# a small model are the same either way, its tokens a little longer.
PIECE = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|[\r\n]+|\s+(?!\S)|\s+"

OLD = "vocab.json"  # of which, with merges.txt beside it, GPT-2's tokenizer was published
FILES = ("tokenizer.json", OLD, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "*.jinja")


class TokenizerChoice:
    """`kind` is trained here: byte-level `bpe` or `unigram`, plain `bytes`, the most frequent `characters`. `path` is a
    tokenizer.json, a folder with one, or the name of one on a hub, in `revision`, taken as it is; `end_of_text` is its
    token for that, where it cannot be told.
    """

    def __init__(
        self, kind: str = "bpe", path: str | None = None, end_of_text: str | None = None, revision: str | None = None
    ) -> None:
        self.revision = revision
        self.kind = kind
        self.path = path
        self.end_of_text = end_of_text

    @functools.cached_property
    def file(self) -> Path | None:
        """The tokenizer.json that is given. Raises UserError where there is none, and for a kind that there is not."""
        if self.kind not in KINDS:
            raise UserError(f"data.tokenizer.kind={self.kind} is none of {', '.join(KINDS)}.")
        if self.path is None:
            return None
        cure = "Name a tokenizer.json or a folder that has one; null trains one on the text."
        key = "data.tokenizer.path"
        return found_file(self.path, FILES[:2], files=FILES, key=key, cure=cure, revision=self.revision)

    @property
    def template(self) -> str | None:
        """The chat template of a tokenizer that is given."""
        return None if self.file is None else chat_template(self.file.parent)

    def __str__(self) -> str:
        return self.kind if self.file is None else self.file.as_posix()

    def fingerprint(self) -> str:
        """Return what decides the tokenizer besides the text and the size of the vocabulary."""
        if self.file is None:
            return self.kind
        names = json.dumps(special_tokens(self.file.parent))
        more = f"{names}{self.end_of_text}{self.template or ''}"
        files = [self.file, *([self.file.with_name("merges.txt")] if self.file.name == OLD else [])]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files) + more.encode()).hexdigest()

    def build(self, texts: Iterable[str], vocab_size: int, total: int, *, special: Sequence[str] = ()) -> Tokenizer:
        """Return the tokenizer. `texts` are `total` documents; `special` are texts that are one token each."""
        if self.file is None:
            return train_tokenizer(texts, vocab_size, total, kind=self.kind, special=special)
        tokenizer = load_tokenizer(self.file)
        tokenizer.add_special_tokens([token for token in special if tokenizer.token_to_id(token) is None])
        return tokenizer

    def names(self, tokenizer: Tokenizer) -> dict[str, str]:
        """Return {"eos": …, "bos": …, "pad": …}: the tokens that end, begin and fill up. Raises UserError without an
        end."""
        found = special_tokens(self.file.parent) if self.file is not None else {}
        ends = [self.end_of_text] if self.end_of_text else [found.get("eos", ""), *KNOWN_ENDS]
        end = next((name for name in ends if name and tokenizer.token_to_id(name) is not None), None)
        if end is None:
            lacks = f"has no token {self.end_of_text!r}" if self.end_of_text else "does not say which token ends a text"
            cure = "Name one of its tokens: 'data.tokenizer.end_of_text=\"TOKEN\"'."
            raise UserError(f"{self.file} {lacks}.", cure=cure)
        return {role: found.get(role, end) if role != "eos" else end for role in ROLES}


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, total: int, *, kind: str = "bpe", special: Sequence[str] = ()
) -> Tokenizer:
    """Return a tokenizer of at most `vocab_size` tokens; small corpora may have fewer merges than that.

    Token 0 ends a text; `special` are the next ones, and never cut.
    """
    first = [END_OF_TEXT, *special]
    show = sys.stderr.isatty()
    trainer: Any
    if kind == "characters":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
        first.append(UNKNOWN)
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=show)
    else:
        tokenizer = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE())
        pieces = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(to_bytes.alphabet())  # so that any text can be encoded
        size = vocab_size if kind != "bytes" else len(first) + len(alphabet)
        train = trainers.UnigramTrainer if kind == "unigram" else trainers.BpeTrainer
        trainer = train(vocab_size=size, special_tokens=first, initial_alphabet=alphabet, show_progress=show)
    tokenizer.train_from_iterator(() if kind == "bytes" else texts, trainer, length=total)
    return tokenizer


def load_tokenizer(file: Path) -> Tokenizer:
    """Return a tokenizer from its file, without the padding and cutting that some files ask for."""
    try:
        if file.name == OLD:
            from transformers import AutoTokenizer  # knows by the model's config how such files are meant

            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(file.parent).backend_tokenizer
        else:
            tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise UserError(f"{file} is not a tokenizer.json: {error}.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def special_ids(tokenizer: Tokenizer, folder: Path) -> dict[str, int | None]:
    """Return what a model's config has to know: `eos_token_id`, `bos_token_id`, `pad_token_id`.

    A padding token that also ends texts is None: torch never trains the embedding of the token that it is told to pad
    with.
    """
    ids = dict.fromkeys(("eos_token_id", "bos_token_id"), end_of_text(tokenizer))
    ids |= {f"{role}_token_id": tokenizer.token_to_id(name) for role, name in special_tokens(folder).items()}
    pad = ids.get("pad_token_id")
    return {**ids, "pad_token_id": None if pad == ids["eos_token_id"] else pad}


def end_of_text(tokenizer: Tokenizer, model: Any = None) -> int | None:
    """Return the token that ends a text: what the model's config says or, without one, what the tokenizer has."""
    known = getattr(getattr(model, "config", None), "eos_token_id", None)
    if isinstance(known, int):
        return known
    ids = (tokenizer.token_to_id(name) for name in KNOWN_ENDS)
    return next((number for number in ids if number is not None), None)
