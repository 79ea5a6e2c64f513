"""Sources of one's own, outside of the project's packages, for tests that interrupt the preparation of data."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.data import numbers
from lm.data.sources import Document, TextSource
from media.toys import Both


class SlowText(TextSource):
    """Takes its time, once."""

    def __init__(self, reached: str, seconds: float = 30.0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.reached = Path(reached)
        self.seconds = seconds

    def documents(self) -> Iterator[Document]:
        for number, document in enumerate(super().documents()):
            if number == 3 and not self.reached.exists():
                self.reached.touch()
                time.sleep(self.seconds)
            yield document


class Deadly:
    """Kills its process, as `kill -9` would, before the DIES_AT-th call that makes something durable. Small batches,
    each journalled, make many such calls."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        numbers.BATCH_BYTES, numbers.SAVE_SECONDS = 2000, 0.0
        self.left = int(os.environ.get("DIES_AT", "0"))
        if self.left:
            os.fsync = self.deadly(os.fsync)  # type: ignore[assignment]
            Path.replace = self.deadly(Path.replace)  # type: ignore[method-assign]
            Path.rename = self.deadly(Path.rename)  # type: ignore[method-assign]

    def deadly(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return called


class DeadlyMedia(Deadly, Both):
    """Pictures and melodies, in turn."""


class DeadlyText(Deadly, TextSource):
    """Text of which the later half is masked in part."""

    def __init__(self, path: str, on_bad: str | None = None) -> None:
        super().__init__(path, on_bad)

    def documents(self) -> Iterator[Document]:
        for number, document in enumerate(super().documents()):
            yield replace(document, loss_spans=((5, 50),)) if number >= 20 else document
