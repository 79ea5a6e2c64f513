"""Out of memory is not the end: the rows of a micro-batch go through in twice as many pieces, and the same step again.

    batch  ->  pieces of rows / n, one after the other  ->  gradients that add up to those of the whole

Each piece backpropagates a sum (see loss_window.py), so neither the mean nor the gradient knows how it was cut; batch
size, data order and schedule stay. While memory suffices none of this runs: the loss and its graph are those that the
experiment computed. After MosaicML Composer's automatic micro-batching.

Of several ranks the one that fails gives up the window, and all do it again once they have agreed, see agreement.py.
"""

import gc
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from harness.batch import Batch, BatchFormat
from harness.errors import UserError
from harness.step.agreement import MemoryAgreement
from harness.telemetry import events

log = logging.getLogger(__name__)


def out_of_memory(error: BaseException) -> bool:
    """Say whether a device, or the CPU, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


class MicrobatchSplitter:
    """Forward and backward of a window of micro-batches, cut as small as memory asks for.

    forget()    forgets what the window has counted, and its gradients
    context()   what Lightning runs a training step in: autocast
    ranks       how the ranks agree, None for one device
    """

    ranks: MemoryAgreement | None = None

    def __init__(self, forget: Callable[[], None], context: Callable[[], AbstractContextManager[None]]) -> None:
        self.pieces = 1  # that each micro-batch is cut into
        self.validation_pieces = 1  # at least; of this rank alone
        self.format = BatchFormat()
        self._forget, self._context = forget, context
        self._window: list[Batch] = []  # the micro-batches since the last optimizer step
        self._failed = False  # memory ran out in this window, and the other ranks do not know yet

    def begin(self, ranks: MemoryAgreement | None) -> None:
        """Begin a training, perhaps one whose earlier attempt needed pieces."""
        self.ranks = ranks
        if ranks is not None and self.pieces > 1:
            ranks.exchange_afterwards()

    def state(self, rows: int) -> dict[str, int]:
        """Return what a later attempt has to know, which would run out of memory again. rows: of a micro-batch."""
        return {"pieces": self.pieces, "pieces_of": rows}

    def restore(self, state: dict[str, Any], rows: int) -> None:
        """Let micro-batches of so many rows go through in pieces as large as those that fitted."""
        if (pieces := state.get("pieces", 1)) > 1:
            fitting = math.ceil(state.get("pieces_of", rows) / pieces)
            self.pieces = math.ceil(rows / fitting)

    def forward(self, step: Callable[[Batch], Tensor], batch: Batch, number: int) -> Tensor:
        """Return the loss of a micro-batch; where it has to be cut, that of its first piece. `step(rows)` computes it,
        `number` is that of the optimizer step. The other pieces follow in `backward`."""
        self._step = step
        self._window.append(batch)
        while not self._failed:
            try:
                return step(batch if self.pieces == 1 else next(self.format.cut(batch, self.pieces)))
            except Exception as error:
                if not out_of_memory(error):
                    raise
            # Not inside `except`: the traceback keeps alive what fills the memory.
            if self.ranks is not None:
                self._give_up()
            else:
                self._halve(number)
        return torch.zeros((), device=next(iter(batch.values())).device, requires_grad=True)

    def backward(self, loss: Tensor, scale: Tensor | None, micro_batches: int, number: int) -> None:
        """Backpropagate a micro-batch. `loss` is what became of `forward`'s: the loop divided it by
        `micro_batches`, but not the pieces that come later; `scale` multiplies the gradient of all."""
        window, done = self._window[-1:], 1  # one piece has been forward
        self._scale, self._micro_batches = scale, micro_batches
        while not self._failed:
            try:
                if done:
                    loss.backward(scale)
                if self.pieces > 1:
                    self._rest(window, done)
                return
            except Exception as error:
                if not out_of_memory(error):
                    raise
            # In place: Lightning holds this very tensor, and with its graph it would hold the memory.
            loss.detach_()
            if self.ranks is not None:
                self._give_up()
                return
            self._halve(number)
            self._forget()  # a backward pass that broke off has left some gradients behind
            window, done = self._window, 0

    def _rest(self, window: list[Batch], done: int) -> None:
        for batch in window:
            for rows in list(self.format.cut(batch, self.pieces))[done:]:
                self._both(rows)

    # A function of its own, so that nothing here holds on to a graph whose backward pass broke off.
    def _both(self, rows: Batch) -> None:
        with self._context():
            loss = self._step(rows)
        loss.backward((torch.ones_like(loss) if self._scale is None else self._scale) / self._micro_batches)

    def _give_up(self) -> None:
        """Leave the rest of the window undone until the other ranks know."""
        self._failed = True
        self._forget()
        free_memory()

    def validate(
        self, step: Callable[[Batch], None], batch: Batch, again: Callable[[], None], number: int, *, alone: bool
    ) -> None:
        """Run a step that has no backward pass, cut like the others; `again` undoes what a broken one has counted.
        `alone`: no other rank waits in it, so this one may cut what the others need not."""
        while True:
            pieces = max(self.pieces, self.validation_pieces)
            try:
                for rows in [batch] if pieces == 1 else self.format.cut(batch, pieces):
                    step(rows)
                return
            except Exception as error:
                if not alone or not out_of_memory(error):
                    raise
            again()
            self.validation_pieces = self._twice(pieces, self.format.rows(batch), number)

    def close(self) -> None:
        """End the window: its gradients are complete."""
        self._window.clear()

    def agree(self, parameters: Iterable[nn.Parameter], number: int) -> None:
        """Complete the gradients of a window on every rank, before it is closed."""
        if self.ranks is not None:
            while self.ranks.one_failed(self._failed):
                self._again(self.ranks, number)
            if self.pieces > 1:
                self.ranks.average(parameters)

    def _again(self, ranks: MemoryAgreement, number: int) -> None:
        ranks.exchange_afterwards()
        self._forget()
        self._halve(number, agreed=True)
        self._failed = False
        try:
            self._rest(self._window, 0)
            return
        except Exception as error:
            if not out_of_memory(error):
                raise
        self._give_up()

    def _halve(self, number: int, *, agreed: bool = False) -> None:
        rows = self.format.rows(self._window[-1])
        if not agreed and torch.distributed.is_available() and torch.distributed.is_initialized():
            # The other ranks wait in an all-reduce that this one cannot join a second time.
            raise UserError(
                "This rank ran out of memory where the others cannot cut their batches with it: with plain "
                "trainer=ddp they do in training steps, and one device does anywhere.",
                cure="The same command with half the data.batch_size and, without data.global_batch, twice the "
                "trainer.accumulate_grad_batches.",
            )
        self.pieces = self._twice(self.pieces, rows, number)

    def _twice(self, pieces: int, rows: int, number: int) -> int:
        """Free memory and return twice as many pieces for batches of so many rows; say so."""
        if pieces >= rows:
            raise UserError(
                f"Out of memory at step {number} with a single row in the model.",
                cure="Try a smaller model, shorter rows, or model.gradient_checkpointing=true.",
            )
        pieces *= 2
        free_memory()
        log.warning(
            "Out of memory at step %d. Each batch of %d rows now goes through in %d pieces: slower, with the same "
            "result. To do so from the start: data.batch_size=%d and, without data.global_batch, "
            "trainer.accumulate_grad_batches=….",
            number,
            rows,
            pieces,
            max(1, rows // pieces),
        )
        events.emit("oom", number, {"rows": rows, "pieces": pieces}, warning=True)
        return pieces


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
