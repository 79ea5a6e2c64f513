"""What a command prints, without secrets: Hydra, libraries and Python itself print command lines and exceptions."""

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

from harness.config.secrets import hidden, hidden_in_report
from harness.ranks import rank

T = TypeVar("T")
Messages = list[dict[str, str]]  # with `role` and `content`

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


def commands(folder: Path, prompt: str) -> dict[str, str]:
    """Return what one would type next, by what it is for."""
    run = folder.as_posix()
    if not re.fullmatch(r"[\w .,:()-]+", prompt):  # empty, or in need of quotes that differ between shells
        prompt = "…"
    return {
        "more text": f'python generate.py {run} --prompt "{prompt}"',
        "score": f"python evaluate.py {run}",
        "report": f"python -m lm report {run}",
        "train longer": "the same command with trainer.max_steps=…",
        "curves": f"tensorboard --logdir {folder.parent.as_posix()}",
    }


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


def converse(reply: Callable[[Messages], Iterator[str]]) -> None:
    """Talk with a person: a line typed, the pieces of `reply(messages)` as they come, and so on. An empty line or the
    end of the input ends it; Ctrl-C ends an answer, of which what was said stays in the messages."""
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    say("An empty line or Ctrl-D ends this, Ctrl-C stops an answer.")
    messages: Messages = []
    while line := _typed():
        messages.append({"role": "user", "content": line})
        said = ""
        try:
            for piece in reply(messages):
                said += piece
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            say(" (stopped)")
        sys.stdout.write("\n")
        sys.stdout.flush()
        messages.append({"role": "assistant", "content": said})


def pieces(decode: Callable[[list[int]], str], numbers: Iterable[int]) -> Iterator[str]:
    """Yield the text that `numbers` stand for as they arrive, holding back bytes that are not a whole character yet."""
    known: list[int] = []
    shown = ""
    for number in numbers:
        known.append(number)
        text = decode(known)
        if text.endswith("\ufffd"):
            continue
        yield text[len(shown) :]
        shown = text
    rest = decode(known)[len(shown) :]
    if rest:
        yield rest


def tell(start: str, more: Iterable[str]) -> None:
    """Print a text on stdout, and what follows it as its pieces arrive."""
    for piece in chain([start], more):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _typed() -> str:
    """Return the next line, empty where there is none."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys and history in `input`; Windows has its own
    try:
        return input("> ").strip()
    except EOFError:
        say("")
        return ""
