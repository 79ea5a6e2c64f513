"""The two logs of a run: a console in colour, and `logs/train.log`, clean UTF-8 that a `grep` finds things in.

`conf/hydra/job_logging/lm.yaml` names the parts; `recording()` surrounds the run and brings in what bypasses logging:
warnings, the libraries that cut themselves off, the last traceback. faulthandler writes into the same file: the stacks
at a crash of the interpreter, at `kill -USR2 PID`, and when no `beat()` came for `stall_minutes`.
"""

import faulthandler
import functools
import logging
import logging.handlers
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.secrets import hidden, hidden_in_report
from harness.errors import UserError
from harness.files import make_folder, open_append
from harness.ranks import rank
from harness.telemetry.plain import strip_ansi

if TYPE_CHECKING:
    from rich.console import Console

# Lightning gives its loggers a console of their own, transformers also stops passing its records on [at import].
LIBRARIES = (
    "lightning", "lightning.fabric", "lightning.pytorch", "lightning_utilities",
    "transformers", "datasets", "huggingface_hub",
)  # fmt: skip


class SecretsHidden(logging.Formatter):
    """Formats a record, traceback and all, without passwords and tokens."""

    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))

    def formatException(self, ei: Any) -> str:
        return hidden_in_report(super().formatException(ei))


class PlainFormatter(SecretsHidden):
    def format(self, record: logging.LogRecord) -> str:
        return strip_ansi(super().format(record))


class RunFile(logging.handlers.RotatingFileHandler):
    """The file of this rank: makes its folder, rotates at `max_bytes` keeping `keep` old ones, never stops a run."""

    def __init__(self, filename: str, *, max_bytes: int, keep: int, stall_minutes: float = 0) -> None:
        path = Path(filename)
        if rank():
            path = path.with_stem(f"{path.stem}-rank{rank()}")
        self._pid, self._failing = os.getpid(), False
        self._stall = Stall(stall_minutes * 60)
        super().__init__(path, maxBytes=max_bytes, backupCount=keep, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> TextIOWrapper:
        stream = self._opened(Path(self.baseFilename))
        # faulthandler keeps the number of the descriptor, so it must learn of each new file.
        faulthandler.enable(stream)
        if hasattr(faulthandler, "register"):  # not on Windows
            before = signal.getsignal(signal.SIGUSR2)  # a cluster's time limit may come as this signal too
            faulthandler.register(signal.SIGUSR2, stream, chain=callable(before))
        self._stall.watch(stream)
        return stream

    def _opened(self, path: Path) -> TextIOWrapper:
        """Open the log, not through a link; where it cannot be written, what would go there goes nowhere."""
        try:
            make_folder(path.parent)
            raw = open_append(path)
        except OSError as error:
            self._say_failing(error)
            raw = open(os.devnull, "ab", buffering=0)  # noqa: PTH123, SIM115
        return TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)

    def shouldRollover(self, record: logging.LogRecord) -> int:
        # A forked data worker shares the file; if it rotated it, the trainer would go on writing into the old one.
        return super().shouldRollover(record) if self._pid == os.getpid() else 0

    def doRollover(self) -> None:
        try:
            super().doRollover()
        except OSError:  # Windows cannot rename a file that somebody reads: go on in the same one, try again later
            self.stream = self.stream or self._open()

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        else:
            self._say_failing(error)

    def _say_failing(self, error: OSError) -> None:
        if not self._failing:  # a full disk, said once
            self._failing = True
            print(f"Cannot write {self.baseFilename} ({error}): the run goes on without it.", file=sys.stderr)

    def beat(self) -> None:
        self._stall.beat()

    def close(self) -> None:
        # Before the descriptor is free to become somebody's checkpoint.
        if self.stream is not None and self._pid == os.getpid():
            faulthandler.disable()
            self._stall.stop()
            if hasattr(faulthandler, "unregister"):
                faulthandler.unregister(signal.SIGUSR2)
        super().close()


class Stall:
    """Dumps every stack when no beat came for `seconds`. The clock is C code: it fires though Python hangs."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.armed, self.beating = seconds, -math.inf, False
        self.stream: TextIOWrapper

    def watch(self, stream: TextIOWrapper) -> None:
        self.stream = stream
        if self.beating:
            self.arm()

    def beat(self) -> None:
        # Setting the clock takes 50 us, so a beat does so only after a tenth of the time.
        if self.seconds and time.monotonic() - self.armed > self.seconds / 10:
            self.arm()

    def arm(self) -> None:
        self.armed, self.beating = time.monotonic(), True
        faulthandler.dump_traceback_later(self.seconds, repeat=True, file=self.stream)

    def stop(self) -> None:
        if self.beating:
            faulthandler.cancel_dump_traceback_later()
        self.beating = False


def console() -> logging.Handler:
    """Return the console of rank 0: Rich in a terminal, plain dated lines where the output goes to a file."""
    if rank():
        return logging.NullHandler()
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(console=terminal(), show_path=False, log_time_format="[%H:%M:%S]")
        handler.setFormatter(SecretsHidden("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    handler.addFilter(_for_people)
    return handler


@functools.cache
def terminal() -> "Console":
    """Return the one Rich console of the process: a progress bar moves out of the way of its own console only."""
    from rich.console import Console

    return Console(stderr=True)


def beat() -> None:
    """Say that the run moves, at every batch. When the next beat does not come, the stacks are dumped."""
    for handler in _files():
        handler.beat()


@contextmanager
def recording() -> Iterator[None]:
    """Surround a run (inside, its libraries are imported): everything it says is in its log, its traceback last."""
    adopt()
    logging.captureWarnings(True)
    hook, threading.excepthook = threading.excepthook, _noting(threading.excepthook)
    try:
        yield
    except UserError as error:
        _to_files(str(error), None)
        raise
    except Exception as error:
        _to_files("The run failed.", error)
        raise
    finally:
        threading.excepthook = hook
        logging.captureWarnings(False)


def adopt() -> None:
    """Let the libraries' records reach our handlers, once."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        for handler in [h for h in logger.handlers if isinstance(h, logging.StreamHandler)]:
            logger.removeHandler(handler)
        logger.propagate = True
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)


def link(folder: Path) -> None:
    """Put this run's log into `folder` too (TensorBoard's): a link, or a copy where links need rights (Windows)."""
    for handler in _files():
        source = Path(handler.baseFilename)
        folder.mkdir(parents=True, exist_ok=True)
        there = folder / source.name
        if there.is_symlink():
            continue
        try:
            there.symlink_to(os.path.relpath(source, folder))
        except OSError:
            with suppress(OSError):
                shutil.copyfile(source, there)


def _for_people(record: logging.LogRecord) -> bool:
    """Keep in the file what libraries only mention, and the warning of Lightning 2.6 on torch 2.13 at every batch."""
    mentioned = record.levelno <= logging.INFO and record.name.startswith(LIBRARIES)
    return not mentioned and not (record.name == "py.warnings" and "LeafSpec" in record.getMessage())


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in str(record.msg)


def _files() -> list[RunFile]:
    return [h for h in logging.getLogger().handlers if isinstance(h, RunFile)]


def _to_files(message: str, error: BaseException | None) -> None:
    # Not to the console: there, whoever started this says it.
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, message, (), exc_info)
    for handler in _files():
        handler.handle(record)


def _noting(hook: Callable[[threading.ExceptHookArgs], Any]) -> Callable[[threading.ExceptHookArgs], Any]:
    def noted(args: threading.ExceptHookArgs) -> None:
        _to_files(f"The thread {args.thread.name if args.thread else '?'} failed.", args.exc_value)
        hook(args)

    return noted
