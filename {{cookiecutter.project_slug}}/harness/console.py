"""What a command prints, without secrets: Hydra, libraries and Python itself print command lines and exceptions."""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO, TypeVar

from harness.config.secrets import hidden, hidden_in_report
from harness.ranks import rank

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


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


@contextmanager
def quiet(most: int = logging.INFO) -> Iterator[None]:
    """Leave out what is logged up to this level."""
    level = logging.root.manager.disable
    logging.disable(most)
    try:
        yield
    finally:
        logging.disable(level)


def say(*lines: str) -> None:
    """Tell a person, on stderr: stdout is for what was asked for."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def closing(title: str, text: str, facts: Mapping[str, str]) -> None:
    """Print the last words of a run on stdout, once for all ranks: a text in a frame, and facts below it."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(stderr=False, soft_wrap=True, quiet=rank() > 0)  # a command broken in two cannot be copied
    console.print(Panel(Text(text), title=title, title_align="left"))
    for label, value in facts.items():
        console.print(f"{label:<17}{value}", markup=False, highlight=False)


def watched(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items, which are scored, behind a bar; where there is no terminal, a line every ten seconds."""
    if sys.stderr.isatty():
        from rich.progress import track  # half of what starting a command takes

        yield from track(items, description="scoring", total=total, transient=True)
        return
    say(f"Scoring {total:,} {what}")
    said = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"Scored {number:,} of {total:,} {what}")
