"""Passwords and tokens, kept out of everything that is written."""

import re
from typing import Any

NAMED_SECRET = re.compile(r"(api_?key|token|password|passwd|secret|credential)s?$", re.IGNORECASE)
IN_OVERRIDE = re.compile(r"((?:api_?key|token|password|passwd|secret|credential)s?=)[^\s,}]+", re.IGNORECASE)
MASK = "***"


def masked(node: Any) -> Any:
    """Return a copy of nested dicts and lists in which values whose key names a secret are `***`."""
    if isinstance(node, dict):
        return {key: MASK if _secret(key, value) else masked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [masked(item) for item in node]
    return node


def masked_word(word: str) -> str:
    """Return a word of a command line with the value of `…token=value` replaced by `***`."""
    return IN_OVERRIDE.sub(rf"\g<1>{MASK}", word)


def _secret(key: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(NAMED_SECRET.search(str(key)))
