"""Conversations in JSON lines, one a line, as documents in which the loss counts the assistant's turns only.

harness/data/conversations.py says in which forms. chat_template.jinja, beside this file, turns messages into text; the
loss counts what it has inside `generation`. Whoever talks to the model later needs the same one.
"""

import hashlib
from pathlib import Path
from typing import Any

from harness.data.conversations import Messages, normalized
from harness.data.sources import FileSource
from harness.data.tables import JsonlSource
from lm.data.sources import Document

TEMPLATE = Path(__file__).with_name("chat_template.jinja")


class ChatSource(JsonlSource):
    """Conversations from a .jsonl file, from all of a folder, or from a glob."""

    name = "chat"
    special_tokens = ("<|im_start|>", "<|im_end|>")
    cure = "Name a .jsonl file, a folder or a glob with data.path=PATH. One file ships: devtools/chat.jsonl."
    cure_of_row = "The forms that are read are described in docs/data.md."

    def __init__(self, path: str | None, on_bad: str | None = None) -> None:
        super().__init__(path, on_bad=on_bad or "error")

    @property
    def chat_template(self) -> str:
        return TEMPLATE.read_text(encoding="utf-8")

    def fingerprint(self) -> str:
        return hashlib.sha256(FileSource.fingerprint(self).encode() + TEMPLATE.read_bytes()).hexdigest()

    def document(self, name: str, row: Any) -> Document:
        try:
            text, spans = rendered(normalized(row))
        except ValueError as error:
            raise ValueError(f"is not a conversation: {error}") from error
        return Document(name, text, spans)


def rendered(messages: Messages) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return a conversation as text, and the stretches of it that are the assistant's."""
    # Imported here: transformers takes seconds, and `check` is asked before anything heavy may be imported.
    from transformers.utils.chat_template_utils import render_jinja_template

    template = TEMPLATE.read_text(encoding="utf-8")
    made: Any = render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True)
    texts, spans = made
    return texts[0], tuple((start, end) for start, end in spans[0])
