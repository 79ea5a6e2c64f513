"""From what a replay saw to one sentence: was it the data, the precision or the weights?"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.nan.finder import NonFinite

SENTENCES = {
    "weights": "weights: {where}; the weights were bad before this step ({bad_weights}).",
    "exploded": "weights: {where}; they are finite, but another batch fails with them too, even in fp32.",
    "precision": "precision: {where} in {precision}; the same step is fine in {fine}.",
    "data": "data: {where} with this batch in every precision; another batch is fine with the same weights.",
    "outside": "none of data, precision and weights: alone the step is fine, so something changed the gradients "
    "after the backward pass: a callback, say.",
    "not reproduced": "not reproduced: the step is fine now. Other hardware, other versions, a kernel that is not "
    "deterministic, or a fault that is gone.",
}


@dataclass(frozen=True)
class Trial:
    """One step, computed without changing anything."""

    precision: str
    loss: float
    norm: float  # of the gradient, before clipping
    fine: bool
    found: NonFinite | None


@dataclass(frozen=True)
class Diagnosis:
    """`kind` is weights, precision, data, outside or not reproduced."""

    kind: str
    sentence: str
    norm: float
    found: NonFinite | None
    trials: list[Trial]
    same_batches: bool
    rank: int = 0  # whose batch it is about

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(
    *,
    precision: str,
    norm: float,
    skipped: bool,
    found: NonFinite | None,
    bad_weights: Sequence[str],
    trials: Sequence[Trial],
    other_batch: Trial,
    same_batches: bool = True,
    rank: int = 0,
) -> Diagnosis:
    """Decide. `trials` begin with fp32; `other_batch` is a healthy one in fp32 with the same weights."""
    fine = [trial.precision for trial in trials if trial.fine]
    if not skipped:
        case = "not reproduced"
    elif bad_weights:
        case = "weights"
    elif len(fine) == len(trials):
        case = "outside"
    elif trials[0].fine:
        case = "precision"
    else:
        case = "data" if other_batch.fine else "exploded"
    where = f"{found} is not finite" if found else f"the gradient norm is {norm:.4g}"
    facts = {"where": where, "precision": precision, "fine": " and ".join(fine), "bad_weights": ", ".join(bad_weights)}
    kind = "weights" if case == "exploded" else case
    return Diagnosis(kind, SENTENCES[case].format(**facts), norm, found, list(trials), same_batches, rank)


def most_telling(diagnoses: Sequence[Diagnosis]) -> Diagnosis:
    """Return the first rank's diagnosis that names a reason: what one rank's batch spoils, the others just receive."""
    return next((v for v in diagnoses if v.kind not in ("outside", "not reproduced")), diagnoses[0])


def show(diagnosis: Diagnosis, bundle: Path) -> None:
    """Print the diagnosis, what led to it, and where to look next."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table("precision", "loss", "gradient norm", "first that is not finite", box=None, pad_edge=False)
    for trial in diagnosis.trials:
        table.add_row(trial.precision, f"{trial.loss:.4g}", f"{trial.norm:.4g}", str(trial.found or "nothing"))
    console.print(table)
    if diagnosis.found:
        where = f", on rank {diagnosis.rank}" if diagnosis.rank else ""
        console.print(f"\nFirst in the run's own step{where}: {diagnosis.found}")
        for name, summary in diagnosis.found.statistics.items():
            console.print(f"  {name}: {', '.join(f'{key} {_number(value)}' for key, value in summary.items())}")
    if not diagnosis.same_batches:
        console.print(
            "\nThe replay met another batch than the run did: the data or the code that makes batches changed."
        )
    console.print(f"\n{diagnosis.sentence[0].upper()}{diagnosis.sentence[1:]}", style="bold")
    console.print(f"The batch as text: {(bundle / f'text-rank{diagnosis.rank}.txt').as_posix()}")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and not math.isinf(value) else str(value)
