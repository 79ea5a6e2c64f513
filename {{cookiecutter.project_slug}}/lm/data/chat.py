"""Conversations in JSON lines, one a line, as documents in which the loss counts the assistant's turns only.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}      OpenAI's form
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}          ShareGPT's form

chat_template.jinja, beside this file, turns messages into text; the loss counts what it has inside `generation`.
Whoever talks to the model later needs the same one.
"""

import hashlib
import reprlib
from pathlib import Path
from typing import Any

from lm.data.rows import JsonlSource
from lm.data.sources import Document, FileSource

Messages = list[dict[str, str]]

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip


class ChatSource(JsonlSource):
    """Conversations from a .jsonl file, from all of a folder, or from a glob."""

    name = "chat"
    special_tokens = ("<|im_start|>", "<|im_end|>")
    cure = "Name a .jsonl file, a folder or a glob with data.path=PATH. One file ships: devtools/chat.jsonl."
    cure_of_row = f"The forms that are read are described in lm/data/{Path(__file__).name}."

    def __init__(self, path: str | None) -> None:
        super().__init__(path)

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


def normalized(record: Any) -> Messages:
    """Return a record of either form as messages with `role` and `content`. Raises ValueError."""
    if isinstance(record, ValueError):  # a line that is not JSON
        raise record
    if isinstance(record, dict):
        record = record.get("messages") or record.get("conversations")
    if not isinstance(record, list) or not record:
        raise ValueError("it has no list of messages under 'messages' or 'conversations'")
    return [_message(item) for item in record]


def rendered(messages: Messages) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return a conversation as text, and the stretches of it that are the assistant's."""
    # Imported here: transformers takes seconds, and `check` is asked before anything heavy may be imported.
    from transformers.utils.chat_template_utils import render_jinja_template

    template = TEMPLATE.read_text(encoding="utf-8")
    made: Any = render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True)
    texts, spans = made
    return texts[0], tuple((start, end) for start, end in spans[0])


def _message(item: Any) -> dict[str, str]:
    if not isinstance(item, dict):
        raise ValueError(f"{reprlib.repr(item)} is not a message")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"the role {reprlib.repr(role)} is none of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": _text(content)}


def _text(content: Any) -> str:
    """Return a message's text: a string, or OpenAI's list of parts, of which only text can be learned here."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"the content {reprlib.repr(content)} is not text")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it has half of a character (a lone surrogate)") from None
    return content
