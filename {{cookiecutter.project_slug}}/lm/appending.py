"""Files of lines that grow while a run goes on, and must not end it."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)


class Lines:
    """Appends text to a file, at once and unbuffered. What a full disk refuses waits in memory for the next line; that
    it does is said once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""
        self._failing = False

    def write(self, text: str = "") -> None:
        self.waiting += text.encode("utf-8", "replace")
        try:
            with self.path.open("ab", buffering=0) as file:
                while self.waiting:
                    self.waiting = self.waiting[file.write(self.waiting) :]
            self._failing = False
        except OSError as error:
            self.refused(error)

    def refused(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            log.warning("Cannot write %s (%s): training goes on, the lines wait in memory.", self.path, error)
