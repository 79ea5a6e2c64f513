"""A source that takes its time, for tests that interrupt the preparation of data."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.data.sources import Document, TextSource


class SlowText(TextSource):
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
