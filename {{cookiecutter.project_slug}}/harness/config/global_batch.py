"""How an optimizer step of a fixed size, `data.global_batch`, is spread over ranks, rows and micro-batches.

whole  what a step has in all: rows, or what a row has `row` of (the tokens of a context, say)
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

AUTO = "auto"  # of data.batch_size
FAR = 10_000  # numbers that are looked at for a divisor: nobody waits for more


def ranks_named(trainer: "DictConfig") -> int | None:
    """Return how many ranks train, from a launcher's environment or from Lightning's `devices` and `num_nodes`; None
    where those of this machine have to be counted."""
    if os.environ.get("WORLD_SIZE", "").isdecimal():
        return int(os.environ["WORLD_SIZE"])
    devices = trainer.get("devices", "auto")
    nodes = int(trainer.get("num_nodes") or 1)
    if devices in ("auto", -1, "-1"):
        return nodes if trainer.get("accelerator") in ("cpu", "mps") else None
    if isinstance(devices, str) and "," in devices:
        devices = [name for name in devices.split(",") if name.strip()]
    return nodes * (int(devices) if isinstance(devices, int | str) else len(devices))


def complaints(cfg: "DictConfig", row: int | None) -> Iterator[str]:
    """Yield what is wrong with a config that has a `data.global_batch`, as far as it is known without torch."""
    for name in ("limit_train_batches", "overfit_batches"):
        if cfg.trainer.get(name) not in (None, 1.0, 0):
            yield (
                f"trainer.{name} counts micro-batches, and with data.global_batch a step has as many as devices and "
                "data.batch_size make it: take trainer.max_steps or data.limit."
            )
    ranks = ranks_named(cfg.trainer)
    if row is not None and ranks is not None:
        try:
            accumulation(cfg, ranks=ranks, row=row)
        except UserError as error:
            yield str(error)


def accumulation(cfg: "DictConfig", *, ranks: int, row: int = 1) -> int:
    """Return how many micro-batches of `data.batch_size` rows each rank has in a step. Raises UserError, with the
    nearest values that work."""
    each, said = rows_each(cfg, ranks=ranks, row=row), f"data.global_batch={cfg.data.global_batch}"
    rows, typed = cfg.data.batch_size, cfg.trainer.get("accumulate_grad_batches") or 1
    if rows == AUTO:
        return 1  # a number that divides is found later
    if each % rows:
        raise UserError(
            f"{said} gives each rank {each} rows a step, which are no whole number of data.batch_size={rows}.",
            cure=f"data.batch_size={_nearest(each, rows)} can be.",
        )
    if typed not in (1, each // rows):
        raise UserError(
            f"trainer.accumulate_grad_batches={typed}, and with {said} it is {each // rows}.", cure="Leave it out."
        )
    return int(each // rows)


def rows_each(cfg: "DictConfig", *, ranks: int, row: int = 1) -> int:
    """Return how many rows each rank has in a step. Raises UserError, with the nearest values that work."""
    whole = cfg.data.global_batch
    said = f"data.global_batch={whole}"
    if whole % row or not whole:
        below = whole // row * row
        near = f"{below} and {below + row} are" if below else f"{row} is"
        raise UserError(f"{said} is not a whole number of rows of {row}.", cure=f"The nearest: {near}.")
    if (whole // row) % ranks:
        cure = f"{_nearest(whole // row, ranks)} can share them."
        raise UserError(f"{said} is {whole // row} rows a step, which {ranks} ranks cannot share evenly.", cure=cure)
    return int(whole // row // ranks)


def at_most(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is not above `most`."""
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)


def _nearest(number: int, wanted: int) -> str:
    """Return the divisors of `number` on both sides of `wanted`, `2 or 4`, as far as they are near."""
    sides = range(min(wanted, number), 0, -1), range(wanted + 1, number + 1)
    found = [next((n for n in side[:FAR] if number % n == 0), None) for side in sides]
    return " or ".join(str(n) for n in found if n) or "1"
