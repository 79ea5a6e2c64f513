"""From a run's folder to its model: what generate.py and evaluate.py begin with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from tokenizers import Tokenizer
from torch import nn
from transformers import PretrainedConfig

from harness.checkpoint import elsewhere, read
from harness.checkpoint.resume import locate
from harness.console import say
from harness.errors import UserError
from harness.hardware import best_device, slow
from harness.run import folder as run_folder
from harness.run.received import admit
from lm.data.tokenizer import special_ids
from lm.models.attention import pick_attention
from lm.models.build import build_model, context_length, model_config
from lm.models.lora import beneath


@dataclass
class Trained:
    """A model as a run left it at its newest whole checkpoint, in float32 on the best device here."""

    folder: Path
    cfg: DictConfig
    model: nn.Module
    tokenizer: Tokenizer
    context: int
    checkpoint: read.Checkpoint
    attention: str

    @property
    def step(self) -> int:
        return self.checkpoint.step

    @property
    def device(self) -> str:
        return device_of(self.model).type


def load(path: str, *, parts: Sequence[str] = ("model",), trust: Sequence[str] = ()) -> Trained:
    """Load the model of a run folder, or of one of its checkpoint folders, and say on stderr what was loaded.

    Raises UserError when there is none, or when `parts` of its config name what is neither harmless nor in `trust`.
    """
    folder, checkpoint = locate(Path(path))
    cfg = run_folder.config(folder)
    # A run may come from anybody, and building its config runs what it names.
    admit(cfg, parts, folder, trusted=trust)
    config = model_config(cfg.model, checkpoint.path)
    model, attention = build(cfg, config)
    model.load_state_dict(elsewhere.whole_state(checkpoint, model, beneath(cfg.model, model)))
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    if config is not None:
        config.update(special_ids(tokenizer, checkpoint.path))
    model = model.eval().float().to(torch.device(best_device()))
    trained = Trained(folder, cfg, model, tokenizer, context_length(cfg.model, config), checkpoint, attention)
    say(*described(trained))
    return trained


def build(cfg: DictConfig, config: PretrainedConfig | None) -> tuple[nn.Module, str]:
    """Return the model and the kernel of its attention: the run's own choice, or sdpa where that is not to be had."""
    asked, _ = pick_attention(str(cfg.model.attention), best_device(), mps_fix=bool(cfg.trainer.mps_fix))
    try:
        return build_model(cfg.model, config, attention=asked, load=False), asked
    except UserError as error:  # a kernel for another device, or a package that is not here
        reason = str(error).splitlines()[0]
        say(f"model.attention={asked} is not available here, so it is sdpa: {reason}")
        return build_model(cfg.model, config, attention="sdpa", load=False), "sdpa"


def described(trained: Trained) -> Iterator[str]:
    """Yield which step, config and device it is, and what of them makes it slow."""
    size = sum(parameter.numel() for parameter in trained.model.parameters())
    tensors = len(read.load_names(trained.checkpoint))
    what = f"{type(trained.model).__name__}, {size:,} parameters, context {trained.context:,}"
    yield f"Loaded step {trained.step:,} from {trained.checkpoint.path.as_posix()}, {tensors} of {tensors} tensors"
    yield f"  config {trained.folder.as_posix()}/config.yaml: model {trained.cfg.model.get('name', 'unnamed')} ({what})"
    yield f"  on {trained.device} in float32, {trained.attention} attention"
    yield from (f"  slow: {why}" for why in slow(trained.device, size))


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
