"""Conversations in JSON lines, one a line, as documents in which the loss counts the assistant's turns only.

harness/data/conversations.py says in which forms. A chat template makes text of messages: that of the tokenizer where
it has one, else chat_template.jinja, beside this file. Whoever talks to the model later needs the same one.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from harness.data.conversations import Messages, Spans, answered, normalized
from harness.data.sources import FileSource
from harness.data.tables import JsonlSource
from lm.data.sources import Document

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")  # by this a template says itself what is the assistant's


class Template:
    """A chat template in Jinja. `names` are the special tokens by role (eos, …) that it may write, of `tokenizer`."""

    def __init__(self, text: str, names: Mapping[str, str] | None = None, tokenizer: Tokenizer | None = None) -> None:
        self.text, self.tokenizer = text, tokenizer
        self.names: dict[str, Any] = {f"{role}_token": name for role, name in (names or {}).items()}

    @functools.cached_property
    def end(self) -> int | None:
        """The token with which an answer ends, None where the template writes none."""
        assert self.tokenizer is not None
        after = self.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": "ANSWER"}])
        ids = self.tokenizer.encode(after.rpartition("ANSWER")[2].lstrip(), add_special_tokens=False).ids
        return ids[0] if ids else None

    def render(self, messages: Messages, asks: bool = False) -> str:
        """Return messages as text, with what an answer would follow where it `asks`."""
        return self._made(messages, add_generation_prompt=asks)[0]

    def answered(self, messages: Messages) -> tuple[str, Spans]:
        """Return a conversation as text, and the stretches of it that are the assistant's. Raises ValueError."""
        if MARKED.search(self.text) or self.tokenizer is None:
            text, spans = self._made(messages, return_assistant_tokens_mask=True)
            return text, tuple((start, end) for start, end in spans)
        if self.end is None:
            raise ValueError("the tokenizer's chat template writes nothing with which an answer ends")
        return answered(messages, self.render, self.tokenizer.decode([self.end], skip_special_tokens=False))

    def _made(self, messages: Messages, **how: Any) -> tuple[str, Any]:
        # Imported here: transformers takes seconds, and `check` is asked before anything heavy may be imported.
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            made: Any = render_jinja_template([messages], chat_template=self.text, **self.names, **how)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses it: {error}") from error
        return made[0][0], made[1] and made[1][0]


class ChatSource(JsonlSource):
    """Conversations from a .jsonl file, from all of a folder, or from a glob."""

    name = "chat"
    special_tokens: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")
    cure = "Name a .jsonl file, a folder or a glob with data.path=PATH. One file ships: devtools/chat.jsonl."
    cure_of_row = "The forms that are read are described in docs/data.md."

    def __init__(self, path: str | None, on_bad: str | None = None) -> None:
        super().__init__(path, on_bad=on_bad or "error")
        self.template = Template(TEMPLATE.read_text(encoding="utf-8"))

    @property
    def chat_template(self) -> str:
        return self.template.text

    def use(self, template: Template) -> None:
        """Take another template, whose tokens its tokenizer has."""
        if template.text != self.template.text:
            self.template, self.special_tokens = template, ()

    def fingerprint(self) -> str:
        return hashlib.sha256((FileSource.fingerprint(self) + self.template.text).encode()).hexdigest()

    def document(self, name: str, row: Any) -> Document:
        try:
            return Document(name, *self.template.answered(normalized(row)))
        except ValueError as error:
            raise ValueError(f"is not a conversation: {error}") from error
