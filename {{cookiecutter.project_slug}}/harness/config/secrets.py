"""Passwords and tokens, kept out of everything that is written.

Two ways to know one. By its place: the value of a key or variable whose name says so, the password in an address. And
by its value: what was seen in such a place once is hidden wherever it turns up later, in an exception's text say.
"""

import json
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MASK = "***"

# `api_key`, `apiKey`, `DB_PASSWORD`, `aws_secret_access_key`: wherever it stands in a name.
SURE = re.compile(r"passw(or)?d|passphrase|secret|credential|(api|access|private|signing|auth|ssh)[_-]?key", re.I)
# `key` and `token` are ordinary words, too: only as a word of the name, or at its end for a token (`hftoken`).
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
TOKEN_OF_TEXT = re.compile(
    r"(bos|eos|pad|unk|mask|cls|sep|sot|eot|start|end|stop|special|extra|image|audio|video|new|first|last|next|per)_tokens?$"
    r"|tokens?_(id|ids|type|types|index|count|limit|length|budget|rate|embedding|dim)(_|$)"
    r"|(^|_)(max|min|num|n|show|total)_tokens?(_|$)", re.I,
)  # fmt: skip
PLACE = re.compile(r"_?(path|dir|file|folder|home|sock|socket|name|url|uri|parallelism)$", re.I)
IN_TEXT = re.compile(r"""(?<![\w.-])([\w.-]{2,80})(["']?\s*[=:]\s*["']?)([^\s"',;&{}()\[\]]+)""")
BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}")
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@'\"]*):([^\s/@'\"]+)@", re.I)

_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def names_secret(name: str) -> bool:
    """Return whether a key or variable of this name holds a secret: `X_TOKEN`, not `max_tokens` or `tokenizer`."""
    name = name.rpartition(".")[2]
    if SURE.search(name):
        return not PLACE.search(name)
    words = [word.lower() for word in WORDS.findall(name)]
    token = any(word.endswith("token") for word in words) or "tokens" in words[-1:]
    if token and not TOKEN_OF_TEXT.search("_".join(words)):
        return not PLACE.search(name)
    return "key" in words[-1:]


def masked(node: Any) -> Any:
    """Return a copy of nested dicts and lists without secrets, by their names and by their values."""
    return _masked(node, hidden)


def masked_by_name(node: Any) -> Any:
    """As `masked`, but the same on every machine: without what the environment of this one knows."""
    return _masked(node, _without_passwords)


def hidden(text: str) -> str:
    """Return a text without the secrets that this process has seen, and without passwords in addresses."""
    text = _without_passwords(text)
    return _pattern.sub(MASK, text) if _pattern else text


def hidden_in_report(text: str) -> str:
    """As `hidden`, for errors and command lines: also without `api_key=…` and the like, wherever it comes from."""
    text = BEARER.sub(rf"\g<1> {MASK}", text)
    return hidden(IN_TEXT.sub(lambda m: f"{m[1]}{m[2]}{MASK}" if _is_secret(m[1], m[3]) else m[0], text))


def learn(*nodes: Any) -> None:
    """Remember the secrets in configs (as nested dicts and lists), environments and the words of a command line."""
    global _pattern
    found = {text for node in nodes for text in _secrets_in(node) if _is_telling(text)}
    if found <= _known:
        return
    _known.update(found)
    spellings = {spelling for text in _known for spelling in _spellings(text)}
    _pattern = re.compile("|".join(re.escape(text) for text in sorted(spellings, key=len, reverse=True)))


def _masked(node: Any, clean: Any) -> Any:
    if isinstance(node, dict):
        return {key: MASK if _is_secret(str(key), value) else _masked(value, clean) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_masked(item, clean) for item in node]
    return clean(node) if isinstance(node, str) else node


def _is_secret(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool | dict | list | tuple) or value == "" or not names_secret(name):
        return False
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        return False  # an interpolation: it says where the secret is, not what it is
    if SURE.search(name):
        return True
    if name.lower().endswith("tokens") and str(value).replace(",", "").isdecimal():
        return False  # `train.tokens: 7,197` counts them
    # A number under `token` or `key` is a count or an index, and `<|end|>` or `text` is a name.
    return (
        isinstance(value, str)
        and not value.startswith("<")
        and (not name.lower().endswith("key") or _is_telling(value))
    )


def _is_telling(text: str) -> bool:
    """Return whether a text can only be a secret: not `true`, `0`, `default` or a file, which occur anywhere."""
    if len(text) < 5 or MASK in text or (text.isdecimal() and len(text) < 8):
        return False
    if text.isalpha() and len(text) < 12 and (text.islower() or text.isupper() or text.istitle()):
        return False
    try:
        return not (text.startswith(("/", "~", ".")) and Path(text).expanduser().exists())
    except (OSError, ValueError, RuntimeError):
        return True


def _secrets_in(node: Any, name: str = "") -> Iterable[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _secrets_in(value, str(key))
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _secrets_in(item)
    elif _is_secret(name, node):
        yield str(node)
    elif isinstance(node, str):
        yield from (match[2] for match in ADDRESS.finditer(node))
        yield from (m[3] for m in IN_TEXT.finditer(node) if not name and _is_secret(m[1], m[3]))


def _spellings(text: str) -> set[str]:
    """Return a text as it stands in JSON, in Python's quotes and in an address."""
    return {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1],
            urllib.parse.quote(text, safe="")}  # fmt: skip


def _without_passwords(text: str) -> str:
    return ADDRESS.sub(rf"\g<1>:{MASK}@", text) if "://" in text else text


learn(dict(os.environ))
