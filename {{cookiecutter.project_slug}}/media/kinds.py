"""The kinds of media, and what each is called in sentences and in rows. A frame module: it imports nothing heavy."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("image", "audio")
NAMES = {"image": ("picture", "pictures"), "audio": ("sound", "sounds")}
# A special token each, of a tokenizer that is trained here.
PLACEHOLDERS = {"image": "<|image|>", "audio": "<|audio|>"}


def placeholder(tokenizer: "Tokenizer", kind: str, end: int) -> int:
    """Return the token at the places of media: one on disk, in a row as many as the encoder puts out. No label is one,
    and no model reads it. A pretrained model has none to spare: there it is `end`, which ends a text."""
    found = tokenizer.token_to_id(PLACEHOLDERS[kind])
    return end if found is None else found
