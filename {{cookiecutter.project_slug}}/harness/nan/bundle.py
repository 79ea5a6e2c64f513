"""The evidence of one skipped step, in a folder: what a person wants to read first, and all that a replay needs.

    nan/step-00000123/
        incident.json            step, norm, loss, the checkpoint to start from, each batch in numbers, logits, weights
        text-rank0.txt           the batches as text
        batch-rank0.safetensors  the batches as the model got them: "0.input_ids", "0.labels", "1.input_ids", …
        rng-rank0.pt             torch's generators as they were before the step
        config.yaml              the run's config

With several ranks each writes its own files, `incident-rank1.json` and so on. `incident.json` comes last: a folder
without it is unfinished.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.batch import Batch, BatchFormat
from harness.distributed import norm_of_all
from harness.errors import UserError
from harness.files import Unreadable, parsed

FOLDER = "nan"


@dataclass(frozen=True)
class Incident:
    """A bundle that was read back."""

    folder: Path
    facts: dict[str, Any]
    batches: list[Batch]
    rng: dict[str, Tensor]

    @property
    def run(self) -> Path:
        return self.folder.parent.parent

    @property
    def step(self) -> int:
        return int(self.facts["step"])


def folder_of(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}"


def write(
    folder: Path,
    facts: Mapping[str, Any],
    batches: list[Batch],
    rng: Mapping[str, Tensor],
    format: BatchFormat,
    *,
    rank: int = 0,
) -> None:
    """Write one rank's part of the bundle. Raises OSError where the disk refuses; an older bundle is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{i}.{name}": tensor.cpu().contiguous() for i, batch in enumerate(batches) for name, tensor in batch.items()
    }
    save_file(tensors, folder / f"batch-rank{rank}.safetensors")
    torch.save(dict(rng), folder / f"rng-rank{rank}.pt")
    (folder / f"text-rank{rank}.txt").write_text("\n".join(_rows(batches, format)), encoding="utf-8")
    config = folder.parent.parent / "config.yaml"
    if rank == 0 and config.is_file():
        (folder / "config.yaml").write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    text = json.dumps(strict(facts), indent=1, ensure_ascii=False)
    (folder / _name(rank)).write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path, rank: int = 0) -> dict[str, Any]:
    """Read the numbers alone. Raises UserError for a folder that is no bundle."""
    path = folder / _name(rank)
    if not path.is_file():
        raise UserError(
            f"{folder} is not the evidence of a skipped step: it has no {path.name}.",
            cure="Such folders are in the folder nan/ of a run, one for each step that was skipped.",
        )
    try:
        facts = parsed(path, json.loads)
    except Unreadable as reason:
        raise UserError(f"{reason}.", cure="Name the folder of another skipped step.") from reason
    if not isinstance(facts, dict) or not isinstance(facts.get("step"), int):
        raise UserError(f"{path} does not say which step was skipped.", cure="Name the folder of another skipped step.")
    return facts


def read(folder: Path, rank: int = 0) -> Incident:
    """Read a bundle back. Raises UserError for a folder that is none."""
    facts = read_facts(folder, rank)
    flat = load_file(folder / f"batch-rank{rank}.safetensors")
    batches: list[Batch] = [{} for _ in {name.partition(".")[0] for name in flat}]
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        batches[int(index)][key] = tensor
    return Incident(folder, facts, batches, torch.load(folder / f"rng-rank{rank}.pt", weights_only=True))


def newest(run: Path, count: int) -> list[Path]:
    """Return the folders of the newest finished bundles, the newest last."""
    return sorted(path.parent for path in (run / FOLDER).glob(f"step-*/{_name(0)}"))[-count:]


def weight_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of every module's own parameters, by name. Waits for the device once per module."""
    norms = {}
    for name, module in model.named_modules():
        if own := list(module.parameters(recurse=False)):
            norms[name] = norm_of_all([parameter.detach() for parameter in own]).item()
    return norms


def strict(value: Any) -> Any:
    """Return a tree of plain values as standard JSON can hold it: nan and infinities as text."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _rows(batches: list[Batch], format: BatchFormat) -> Iterable[str]:
    for index, batch in enumerate(batches):
        for row, text in enumerate(format.show(batch)):
            yield f"--- micro-batch {index}, row {row}\n{text}"


def _name(rank: int) -> str:
    return "incident.json" if rank == 0 else f"incident-rank{rank}.json"
