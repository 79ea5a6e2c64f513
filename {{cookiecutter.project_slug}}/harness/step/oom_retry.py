"""Out of memory is no end: the rows of a micro-batch go through in twice as many pieces, and the same step again.

    batch (B, T)  ->  pieces of B / n rows, one after the other  ->  gradients that add up to those of the whole

Each piece backpropagates a sum (see loss.py), so neither the mean nor the gradient knows how it was cut; batch size,
data order and schedule stay. After MosaicML Composer's automatic micro-batching.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from harness.errors import UserError
from harness.telemetry import events

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


def out_of_memory(error: BaseException) -> bool:
    """Say whether a device, or the CPU, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


class MicrobatchSplitter:
    """Forward and backward of a window of micro-batches, cut as small as memory asks for.

    loss(rows)  the scalar to backpropagate for some rows, of which every call is counted
    forget()    forgets what the window has counted and its gradients
    context()   what Lightning runs a training step in: autocast
    """

    def __init__(
        self,
        loss: Callable[[Batch], Tensor],
        forget: Callable[[], None],
        context: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.number = 1  # pieces that each micro-batch is cut into
        self._of, self._forget, self._context = loss, forget, context
        self._window: list[Batch] = []  # the micro-batches since the last optimizer step
        self._loss: Tensor | None = None
        self._stand_in = torch.empty(0)

    def forward(self, batch: Batch, step: int) -> Tensor:
        """Return the first piece's loss, cut off from what it was computed of. The rest follows in `backward`.

        Lightning holds on to what it is given; with the graph it would hold on to the memory that an overflow has to
        free.
        """
        self._window.append(batch)
        while True:
            try:
                self._loss = self._of(next(cut(batch, self.number)))
            except Exception as error:
                if not out_of_memory(error):
                    raise
            else:
                self._stand_in = self._loss.detach().requires_grad_()
                return self._stand_in
            # Not inside `except`: the traceback keeps alive what fills the memory.
            self._halve(step)

    def backward(self, loss: Tensor, step: int) -> None:
        """Backpropagate every piece of the micro-batch. `loss` is what became of `forward`'s, divided and scaled."""
        loss.backward()
        factor = self._stand_in.grad
        assert factor is not None and self._loss is not None
        window, done = self._window[-1:], 1  # one piece is forward already
        while True:
            try:
                if done:
                    self._first(factor)
                for batch in window:
                    for rows in list(cut(batch, self.number))[done:]:
                        self._both(rows, factor)
                return
            except Exception as error:
                if not out_of_memory(error):
                    raise
            self._halve(step)
            self._forget()  # a backward pass that broke off has left some gradients behind
            window, done = self._window, 0

    # Functions of their own, so that nothing here holds on to a graph whose backward pass broke off.
    def _first(self, factor: Tensor) -> None:
        loss, self._loss = self._loss, None
        assert loss is not None
        loss.backward(factor)

    def _both(self, rows: Batch, factor: Tensor) -> None:
        with self._context():
            loss = self._of(rows)
        loss.backward(factor)

    def close(self) -> None:
        """End the window: its gradients are complete."""
        self._window.clear()

    def _halve(self, step: int) -> None:
        rows = len(self._window[-1]["input_ids"])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # The other ranks wait in an all-reduce that this one cannot join a second time.
            raise UserError(
                "This rank ran out of memory. With one device the batch would be cut into smaller pieces now; several "
                "cannot agree on that in the middle of a step.",
                cure="The same command with half the data.batch_size and twice the trainer.accumulate_grad_batches.",
            )
        if self.number >= rows:
            raise UserError(
                f"Out of memory at step {step + 1} with a single row in the model.",
                cure="Try model.gradient_checkpointing=true, a shorter model.config.max_position_embeddings, or a "
                "smaller model.",
            )
        self.number *= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "Out of memory at step %d. Each batch of %d rows now goes through in %d pieces: slower, with the same "
            "result. data.batch_size=%d trainer.accumulate_grad_batches=… does so from the start.",
            step + 1,
            rows,
            self.number,
            max(1, rows // self.number),
        )
        events.emit("oom", step + 1, {"rows": rows, "pieces": self.number})


def cut(batch: Batch, number: int) -> Iterator[Batch]:
    """Yield the rows of a batch in at most `number` pieces, in order."""
    pieces = {name: tensor.chunk(number) for name, tensor in batch.items()}
    for index in range(len(next(iter(pieces.values())))):
        yield {name: chunks[index] for name, chunks in pieces.items()}
