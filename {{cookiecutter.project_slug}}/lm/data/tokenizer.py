"""A byte-level BPE tokenizer of the model's vocabulary size, trained on the training documents."""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"

# No merge crosses the border of a piece: a word with the space before it, one digit (as in Llama 1), punctuation, line
# ends apart from the indentation after them (as in Llama 3). GPT-2's pattern joins those two; the bits per byte of
# a small model are the same either way, its tokens a little longer.
PIECE = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, total: int, *, special: Sequence[str] = (), show_progress: bool = False
) -> Tokenizer:
    """Return a tokenizer of at most `vocab_size` tokens; small corpora may have fewer merges than that.

    Token 0 ends a text; `special` are the next ones, and never cut.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # so that any text can be encoded
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer, length=total)
    return tokenizer
