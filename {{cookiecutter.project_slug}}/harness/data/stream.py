"""Work on a stream whose items do not fit into memory: in batches, one ahead."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def batches(items: Iterable[T], size: Callable[[T], int], full: int) -> Iterator[list[T]]:
    """Cut a stream where the sizes of its items reach `full`."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= full:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` in order, done in a thread while the caller handles the one before and the next is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: Future[R] | None = None
        for item in items:
            following = pool.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
