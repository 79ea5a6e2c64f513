"""Binary files that are appended to for hours, so that `kill -9` costs seconds of them and not all.

    files = GrowingFiles(folder)  # cut to what is whole; files.state is what was saved with it
    files.append("train.bin", numbers.tobytes())
    files.save({"rows": 1000})   # fsync, then the journal

Who goes on from `state` writes the same bytes as without the kill.
"""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from harness.run.artifact import write_durably

JOURNAL = ".journal.json"


class GrowingFiles:
    """The files of one folder by name. `sizes` are their bytes; `state` is None where there is nothing to go on with:
    no journal, or files that do not bear it out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[str, int] = {}
        self.state: dict[str, Any] | None = None
        self._streams: dict[str, BinaryIO] = {}
        self._saved = time.monotonic()
        try:
            journal = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
            sizes = {str(name): int(size) for name, size in journal["sizes"].items()}
            if all((folder / Path(name).name).stat().st_size >= size for name, size in sizes.items()):
                self.sizes, self.state = sizes, dict(journal["state"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass

    def append(self, name: str, data: bytes) -> None:
        """Append to a file, which begins with its first bytes, be they none."""
        if name not in self._streams:
            self._streams[name] = self._open(name)
        self._streams[name].write(data)
        self.sizes[name] += len(data)

    def save(self, state: dict[str, Any], *, every: float = 0.0) -> None:
        """Make durable what was appended, and say so in the journal; not again before `every` seconds have passed."""
        if time.monotonic() - self._saved < every:
            return
        for stream in self._streams.values():
            stream.flush()
            os.fsync(stream.fileno())
        write_durably(self.folder / JOURNAL, json.dumps({"sizes": self.sizes, "state": state}))
        self._saved = time.monotonic()

    def _open(self, name: str) -> BinaryIO:
        path = self.folder / name
        path.touch()
        stream = path.open("r+b")
        size = self.sizes.setdefault(name, 0)
        stream.truncate(size)
        stream.seek(size)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()
