"""Weights, gradients and moments split over all ranks, `trainer=fsdp`: torch's FSDP2 through Lightning.

Each layer's weights are gathered when it computes, and given back. A step is that of one process, up to rounding.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from harness.errors import UserError

log = logging.getLogger(__name__)

PRECISIONS = ("32-true", "bf16-mixed")


class ShardedStrategy(ModelParallelStrategy):
    """All ranks are data-parallel. States are those of any strategy, with tensors that are split; checkpoints are our
    own (harness/checkpoint), to which each rank writes its part."""

    restore_checkpoint_after_setup = False
    lightning_restore_optimizer = True
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    optimizer_state = Strategy.optimizer_state
    load_checkpoint = Strategy.load_checkpoint
    load_model_state_dict = Strategy.load_model_state_dict
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.world_size
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def process_dataloader(self, dataloader: object) -> object:
        """Give every rank as many validation batches: a forward pass that one makes alone would wait for ever."""
        batches = getattr(dataloader, "batch_sampler", None)
        if isinstance(batches, list):
            everywhere: list[list[int]] = [[]] * self.world_size
            torch.distributed.all_gather_object(everywhere, [len(batch) for batch in batches])
            most = max(map(len, everywhere))
            if any(sum(sizes) < most for sizes in everywhere):
                raise UserError(
                    f"There are too few validation batches to keep {self.world_size} ranks busy alike.",
                    cure="Hold more out for validation, or take another data.batch_size.",
                )
            while len(batches) < most:
                at = max(range(len(batches)), key=lambda i: len(batches[i]))
                batches[at : at + 1] = [batches[at][:-1], batches[at][-1:]]
        return dataloader

    def shard(self, network: nn.Module, layers: Sequence[nn.Module], precision: str) -> None:
        """Split `network`, once; `layers` are gathered one at a time, and what else it has at its beginning."""
        if isinstance(network, FSDPModule):
            return
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        how: dict[str, Any] = {"mp_policy": policy} if precision == "bf16-mixed" else {}
        for module in [*dict.fromkeys(layers), network]:
            # The network too: else its weights would stay whole after a validation, which has no backward pass.
            fully_shard(module, mesh=self.device_mesh["data_parallel"], reshard_after_forward=True, **how)
        if network is self.lightning_module:  # which nobody calls: its steps are what gathers
            for step in ("training_step", "validation_step"):
                register_fsdp_forward_method(network, step)


def is_sharded(trainer: DictConfig) -> bool:
    """Say whether a config's trainer is `trainer=fsdp`."""
    strategy = trainer.get("strategy")
    return OmegaConf.is_dict(strategy) and str(strategy.get("_target_")).endswith(ShardedStrategy.__name__)


def repeated_layers(network: nn.Module) -> list[nn.Module]:
    """Return what the outermost lists of modules hold: a transformer's layers."""
    lists = [name for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    layers = [layer for name in outer for layer in network.get_submodule(name).children()]
    return [layer for layer in layers if list(layer.parameters())]


def samples_here(trainer: Trainer) -> bool:
    """Say whether this rank runs the model for something that one rank shows: sharded weights need every rank in each
    forward pass, and otherwise rank 0 does it alone, where it has the whole model."""
    if isinstance(trainer.strategy, ShardedStrategy):
        return True
    return trainer.is_global_zero and isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))


def refuse_what_cannot_be_sharded(trainer: Trainer, module: Any) -> None:
    """Raise UserError, before training, for what needs whole weights in one process, and say what will be missing."""
    if not isinstance(trainer.strategy, ShardedStrategy):
        return
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    averaging = next((callback for callback in callbacks if isinstance(callback, WeightAveraging)), None)
    inside = {id(parameter) for parameter in module.network.parameters()}
    outside = [name for name, parameter in module.named_parameters() if id(parameter) not in inside]
    if averaging is not None:
        reason, cure = f"{type(averaging).__name__} averages whole weights", "leave that callback out"
    elif trainer.precision not in PRECISIONS:
        reason, cure = f"It has no trainer.precision={trainer.precision}", f"take one of {', '.join(PRECISIONS)}"
    elif outside:
        reason, cure = f"{outside[0]} is not in the module's `network`", "move it there"
    else:
        log.info(
            "trainer=fsdp: skipped steps keep their evidence but cannot be replayed; a step out of memory ends the run."
        )
        return
    raise UserError(f"trainer=fsdp cannot train this run. {reason}.", cure=f"Either {cure}, or use trainer=ddp.")
