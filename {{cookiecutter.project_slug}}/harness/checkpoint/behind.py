"""Work that goes on behind training, one piece at a time. What ends a process waits for it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Behind:
    """A thread, made when it is first needed: a Trainer may be sent to another process before it trains."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._work is not None and not self._work.done()

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work` when what is under way is done."""
        self.wait()
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._work = self._thread.submit(work)

    def wait(self) -> None:
        """Return when nothing is under way. Raises what the work has raised."""
        if self._work is not None:
            wait([self._work])
            work, self._work = self._work, None
            work.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
