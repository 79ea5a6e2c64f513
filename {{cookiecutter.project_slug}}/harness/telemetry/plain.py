"""Text that does nothing to a terminal: what a log quotes may be somebody else's."""

import re
from collections.abc import Callable
from typing import Any

# In this order: titles and hyperlinks (OSC) and other strings with their payload, colours and cursor moves (CSI), the
# rest. An OSC that is never closed ends with its line, so that it cannot swallow the text below it.
ANSI = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]"
)

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def strip_ansi(text: str) -> str:
    return ANSI.sub("", text)


def _without_control(text: str) -> str:
    return CONTROL.sub("", strip_ansi(text))


def printable(value: Any, clean: Callable[[str], str] = _without_control) -> Any:
    """Return plain values whose texts do nothing to a terminal: without escape sequences and control characters."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {printable(key, clean): printable(item, clean) for key, item in value.items()}
    return [printable(item, clean) for item in value] if isinstance(value, list) else value
