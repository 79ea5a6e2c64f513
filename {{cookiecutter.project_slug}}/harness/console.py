"""What a command prints, without secrets: Hydra, libraries and Python itself print command lines and exceptions."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from harness.config.secrets import hidden, hidden_in_report


class Hiding:
    """A text stream that hides secrets in what it is given, and is otherwise the stream that it stands before."""

    def __init__(self, stream: TextIO, clean: Callable[[str], str]) -> None:
        self._stream = stream
        self._clean = clean

    def write(self, text: str) -> int:
        self._stream.write(self._clean(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def secrets_hidden() -> Iterator[None]:
    """Let nothing secret through to the terminal. Standard output is data, such as generated text: only what is
    known to be secret is taken out of it."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Hiding(sys.stdout, hidden), Hiding(sys.stderr, hidden_in_report)
    sys.excepthook = _print_exception  # stays: what leaves this command is printed after it
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(hidden_in_report("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
