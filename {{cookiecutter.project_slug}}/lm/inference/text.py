"""From a run to its model, then to text or to a score: the story of generate.py and evaluate.py."""

import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import track
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from harness.checkpoint import read
from harness.checkpoint.resume import locate
from harness.errors import UserError
from harness.hardware import best_device
from harness.run import folder as run_folder
from lm.data.datamodule import collate, windows
from lm.data.prepare import Prepared, Recipe, prepare
from lm.data.tokenizer import END_OF_TEXT
from lm.inference.sampling import pieces, sample
from lm.models.build import build_model, context_length, model_config
from lm.module import loss_sums

log = logging.getLogger(__name__)


@dataclass
class Trained:
    """A model as a run left it at its newest whole checkpoint."""

    folder: Path
    cfg: DictConfig
    model: PreTrainedModel
    tokenizer: Tokenizer
    context: int
    step: int


def load(path: str) -> Trained:
    """Load the model of a run folder, or of one of its checkpoint folders. Raises UserError when there is none."""
    folder, checkpoint = locate(Path(path))
    cfg = run_folder.config(folder)
    config = model_config(cfg.model)
    model = build_model(cfg.model, config)
    model.load_state_dict(read.load_weights(checkpoint))
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    return Trained(
        folder,
        cfg,
        model.eval().to(torch.device(best_device())),
        tokenizer,
        context_length(cfg.model, config),
        checkpoint.step,
    )


def generate(path: str, prompt: str | None, max_tokens: int, temperature: float, top_k: int, seed: int) -> None:
    """Print `prompt` (None: that of the run's data) and its continuation as it is made."""
    trained = load(path)
    prompt = trained.cfg.data.get("prompt", "") if prompt is None else prompt
    ids = sample(
        trained.model,
        trained.tokenizer.encode(prompt).ids,
        max_tokens=max_tokens,
        context=trained.context,
        temperature=temperature,
        top_k=top_k or None,
        seed=seed,
        stop=trained.tokenizer.token_to_id(END_OF_TEXT),
    )
    sys.stdout.write(prompt)
    for piece in pieces(trained.tokenizer, ids):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def evaluate(path: str, as_json: bool) -> None:
    """Print the loss, perplexity and bits per byte of a run on its held-out text."""
    trained = load(path)
    prepared = validation_data(trained)
    nats, tokens = score(trained, prepared)
    size = prepared.meta["val"]["bytes"]
    result = {
        "run": trained.folder.as_posix(),
        "step": trained.step,
        "loss": nats / tokens,
        "perplexity": math.exp(min(nats / tokens, 700)),
        # The vocabulary drops out of this one, so that models with other tokenizers can be compared.
        "bits_per_byte": nats / math.log(2) / size,
        "tokens": tokens,
        "bytes": size,
    }
    if as_json:
        print(json.dumps(result))
        return
    print(f"{result['run']} at step {trained.step}, on {tokens:,} tokens ({size:,} bytes) of held-out text:")
    print(
        f"  loss {result['loss']:.4f} nats per token, perplexity {result['perplexity']:.2f}, "
        f"{result['bits_per_byte']:.4f} bits per byte"
    )


def validation_data(trained: Trained) -> Prepared:
    """Return the run's own prepared data, made again where they were cleared; refuse text that has changed since."""
    data, seed = trained.cfg.data, trained.cfg.seed
    recipe = Recipe(trained.model.config.vocab_size, data.val_fraction, seed, data.limit)
    prepared = prepare(instantiate(data.source), recipe, Path(data.prepared))
    if prepared.tokenizer.to_str() != trained.tokenizer.to_str():
        raise UserError(
            f"The text of {trained.folder} has changed since it was trained: its tokenizer is another one now.",
            cure="Score it where the text is as it was, or train again on the new text.",
        )
    return prepared


@torch.no_grad()
def score(trained: Trained, prepared: Prepared, batch_size: int = 8) -> tuple[float, int]:
    """Return the sum of losses in nats over the validation tokens, each predicted once, and their number. In
    float32."""
    loader = DataLoader(
        windows(prepared, "val", trained.context),
        batch_size=batch_size,
        collate_fn=lambda rows: collate(rows, batch_size),
    )
    nats, tokens = 0.0, 0
    for batch in track(loader, description="scoring", transient=True, disable=not sys.stderr.isatty()):
        batch = {name: tensor.to(trained.model.device) for name, tensor in batch.items()}
        total, valid = loss_sums(trained.model(input_ids=batch["input_ids"], use_cache=False).logits, batch["labels"])
        nats += total.item()
        tokens += int(valid.item())
    return nats, tokens
