"""Conversations as messages with `role` and `content`, from the two forms in which they are published.

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}      OpenAI's form
{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}          ShareGPT's form
"""

import json
import reprlib
from collections.abc import Callable
from typing import Any

Messages = list[dict[str, str]]
Spans = tuple[tuple[int, int], ...]  # stretches (start, end) of a text

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip


def normalized(record: Any) -> Messages:
    """Return a record of either form as messages with `role` and `content`. Raises ValueError."""
    if isinstance(record, ValueError):  # a line that is not JSON
        raise record
    if isinstance(record, dict):
        record = record.get("messages") or record.get("conversations")
    if not isinstance(record, list) or not record:
        raise ValueError("it has no list of messages under 'messages' or 'conversations'")
    return [_message(item) for item in record]


def answered(messages: Messages, render: Callable[[Messages, bool], str], stop: str) -> tuple[str, Spans]:
    """Return a conversation as text, and the stretches of it that are the assistant's.

    `render(messages, asks)` writes messages and, where it `asks`, what an answer follows. A stretch is what a model has
    to write: from there to the first `stop`. Raises ValueError where that cannot be told, or something is lost.
    """
    text, spans = render(messages, False), []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            said = message["content"].strip()
            if said not in text and json.dumps(said, ensure_ascii=False)[1:-1] not in text:
                raise ValueError(f"the chat template leaves out what the role {message['role']!r} says")
            continue
        before = render(messages[:number], True)
        end = text.find(stop, len(before))
        if not text.startswith(before) or end < 0:
            raise ValueError(f"the chat template does not show where message {number + 1}, an answer, begins and ends")
        if stop in message["content"]:
            raise ValueError(f"an answer holds {stop!r}, with which the chat template ends one")
        spans.append((len(before), end + len(stop)))
    return text, tuple(spans)


def _message(item: Any) -> dict[str, str]:
    if not isinstance(item, dict):
        raise ValueError(f"{reprlib.repr(item)} is not a message")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"the role {reprlib.repr(role)} is none of {', '.join(ROLES)}")
    if calls := item.get("tool_calls"):  # beside a content that may be null
        written = [f"<tool_call>{json.dumps(_function(call), ensure_ascii=False)}</tool_call>" for call in calls]
        content = "\n".join([*([content] if content else []), *written])
    return {"role": ROLES[role], "content": _text(content)}


def _function(call: Any) -> Any:
    return call.get("function", call) if isinstance(call, dict) else call


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
