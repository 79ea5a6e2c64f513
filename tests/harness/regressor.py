"""An experiment that is no language model: a small network through noisy points. It knows nothing but `harness`."""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness import Batch, ExactData, GuardedModule, attempt, fit, limits, pick, starting_point, total_steps


class Points(ExactData):
    """y = sin(3 x), with noise that depends on the index alone; rows `first` to `first + size`."""

    def __init__(self, size: int, **loader: Any) -> None:
        super().__init__(**loader)
        self.train_set, self.val_set = Noisy(0, size), Noisy(size, size // 4)


class Noisy(torch.utils.data.Dataset):
    def __init__(self, first: int, size: int) -> None:
        self.first, self.size = first, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Batch:
        x = torch.rand(1, generator=torch.Generator().manual_seed(self.first + index)) * 2 - 1
        return {"x": x, "y": torch.sin(3 * x)}


class Regressor(GuardedModule):
    def __init__(self, width: int) -> None:
        super().__init__(labels_per_batch=8)  # rows of a full batch: fp16 then needs no smaller scale
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(width, 1)
        )

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        errors = self.layers(batch["x"]) - batch["y"]
        return self.mean_loss(errors.square().sum(), len(errors))

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        errors = self.layers(batch["x"]) - batch["y"]
        self.count_validation(errors.square().sum(), len(errors))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2, fused=True)


def train(cfg: DictConfig) -> float | None:
    with attempt(cfg) as run:
        data = Points(**cfg.data)
        point = starting_point(cfg, data.described)
        if point and run.result(point.step, limits(cfg.trainer, total_steps(cfg.trainer, data))):
            return None
        return fit(cfg, run, Regressor(cfg.width), data, pick(cfg), point)


def config(folder: Path, **changes: Any) -> DictConfig:
    """A config of one's own: what the harness reads of it is below; `width` and `data` are the experiment's."""
    callbacks = {name: {"_target_": f"harness.callbacks.{name}.{kind}"} for name, kind in CALLBACKS.items()}
    callbacks["checkpoint"] |= {"every_n_steps": 5}
    run = {"root": str(folder.parent), "name": folder.name, "dir": str(folder)}
    trainer = {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "precision": "32-true", "max_steps": 30}
    trainer |= {"accumulate_grad_batches": 2, "enable_model_summary": False, "use_distributed_sampler": False}
    cfg = {"seed": 0, "resume": "auto", "resume_from": None, "env": {}, "run": run, "width": 16, "logger": {}}
    cfg |= {"data": {"size": 100, "batch_size": 8}, "trainer": trainer, "callbacks": callbacks}
    return OmegaConf.merge(cfg, changes)


CALLBACKS = {"checkpoint": "DurableCheckpoint", "nan_guard": "NanGuard", "debug_log": "DebugLog", "signals": "Signals"}

if __name__ == "__main__":
    train(config(Path(sys.argv[1]), **OmegaConf.from_dotlist(sys.argv[2:])))
