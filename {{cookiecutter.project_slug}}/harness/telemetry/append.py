"""Files of lines that grow while a run goes on, and must not end it."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from harness.files import json_lines, open_append, write_whole

log = logging.getLogger(__name__)

# Bytes that wait while the disk refuses them; of more the oldest are given up, for training matters more than its log.
MOST_WAITING = 4 << 20


class AppendOnlyFile:
    """Appends whole lines to a file, at once and unbuffered: what write() has taken is the kernel's, and survives a
    kill -9 of this process. What a full disk refuses waits in memory for the next line; that it does is said once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""
        self._torn = self._failing = False

    def write(self, lines: bytes = b"") -> None:
        self.waiting += lines
        try:
            with open_append(self.path) as file:
                while self.waiting:
                    taken = file.write(self.waiting)
                    self._torn = self.waiting[taken - 1 : taken] != b"\n"
                    self.waiting = self.waiting[taken:]
            self._failing = False
        except OSError as error:
            self.refused(error)

    def refused(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            log.warning("Cannot write %s (%s): training goes on, the lines wait in memory.", self.path, error)
        if (excess := len(self.waiting) - MOST_WAITING) > 0:
            end = self.waiting.index(b"\n", excess)
            # A line of which the file has the beginning still has to end before the next one.
            self.waiting = self.waiting[end if self._torn else end + 1 :]

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        with suppress(OSError), open_append(self.path) as file:  # some network disks cannot; each write was checked
            os.fsync(file.fileno())

    def forget_after(self, step: int) -> None:
        """Remove JSON lines of an earlier attempt beyond the `step` at which this one goes on: they will come again."""
        if not os.path.lexists(self.path):
            return
        lines = json_lines(self.path)
        kept = [line for line, entry in lines if isinstance(at := entry.get("step"), int) and at <= step]
        try:
            write_whole(self.path, b"".join(kept))
        except OSError as error:
            log.warning("Cannot write %s (%s).", self.path, error)
