"""How far a long pass over text is: MB/s and time left, as a bar in a terminal, as a line now and then without one."""

import logging
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from harness.telemetry.logs import terminal

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0


class Meter:
    """Counts bytes of text. `total` may be unknown; `done` of them were handled by an earlier attempt."""

    def __init__(self, what: str, total: int | None, done: int = 0) -> None:
        self.what, self.total, self.done, self._before = what, total, done, done
        self._started = self._said = time.monotonic()
        columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=terminal(), transient=True, disable=not terminal().is_terminal)
        self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, size: int) -> None:
        self.done += size
        self._bar.update(self._task, completed=self.done)
        if not terminal().is_terminal and time.monotonic() - self._said >= EVERY_SECONDS:
            self._said = time.monotonic()
            log.info("%s: %s", self.what, self.line(self._said - self._started))

    def line(self, seconds: float) -> str:
        """Return `512 of 1,000 MB, 12.3 MB/s, 0:40 left` after so many seconds."""
        speed = (self.done - self._before) / max(seconds, 1e-9)
        if not self.total:
            return f"{self.done / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s"
        left = max(0, self.total - self.done) / max(speed, 1.0)
        minutes, rest = divmod(int(left), 60)
        return f"{self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s, {minutes}:{rest:02} left"
