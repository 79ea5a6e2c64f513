"""The card of a model that is handed over: what of its run a stranger wants to know, as Markdown."""

import math
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from harness.checkpoint.read import Checkpoint
from harness.config.secrets import hidden_in_report
from harness.run import folder as run_folder

PARTS = ("seed", "model", "data", "optimizer", "scheduler")  # of the config


def card(
    cfg: DictConfig, checkpoint: Checkpoint, front: Mapping[str, str], facts: Mapping[str, str], *, base: str | None
) -> str:
    """Return the card of the model in a checkpoint: `front` is for a hub, `facts` are rows that only the experiment
    knows, `base` is what it was trained from (a folder is private, and says its name alone); data, steps, loss and
    config are the run's. Without secrets."""
    folder = checkpoint.path.resolve().parent.parent
    manifest, result = checkpoint.manifest, run_folder.read(folder).get("result") or {}
    # The last step is validated after its checkpoint.
    score = result.get("val_loss") if result.get("step") == checkpoint.step else manifest.get("score")
    loss = "none" if score is None else f"{score:.4f} nats per token, perplexity {math.exp(min(score, 700)):.2f}"
    counts = (manifest.get("data") or {}).get("train") or {}
    data = ", ".join(f"{number:,} {what}" for what, number in counts.items() if isinstance(number, int))
    if base:
        facts = {**facts, "trained from": Path(base).name if Path(base).exists() else base}
        front = {**front, **({} if Path(base).exists() else {"base_model": base})}
    rows = {**facts, "data": f"{cfg.data.name}: {data}", "steps": f"{checkpoint.step:,}", "validation loss": loss}
    config = OmegaConf.to_yaml(OmegaConf.create({part: cfg[part] for part in PARTS if part in cfg}))
    lines = [
        *("---", *(f"{key}: {value}" for key, value in front.items()), "---", f"# {folder.name}", ""),
        *("| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""),
        *("## Config", "", "```yaml", config.rstrip(), "```", ""),
    ]
    return hidden_in_report("\n".join(lines))
