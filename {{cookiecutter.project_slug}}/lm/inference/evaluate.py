"""Score a trained model: the story of evaluate.py, on the text that its run held out or on any other."""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from harness.console import watched
from harness.errors import UserError
from lm.batch import model_inputs
from lm.data.datamodule import collate, windows
from lm.data.prepare import Prepared, encode_only, prepare_data
from lm.data.tokenizer import end_of_text
from lm.inference.load import Trained, load
from lm.models.build import model_config, vocabulary_size
from lm.module import loss_sums


def evaluate(path: str, data: str | None, overrides: list[str], as_json: bool, trust: Sequence[str] = ()) -> None:
    """Print the loss, perplexity and bits per byte of a run on its held-out text, or on the text at `data`."""
    other = other_path(data, overrides)
    trained = load(path, parts=("model", "data"), trust=trust)
    with tempfile.TemporaryDirectory() as temporary:
        prepared = other_data(trained, other, Path(temporary)) if other else validation_data(trained)
        nats, tokens = score(trained, prepared)
    if not tokens:
        raise UserError(f"There is no token to predict in {other or 'the held-out text'}.", cure="Name more text.")
    if not math.isfinite(nats):
        cure = "Name an earlier one of the run's checkpoints/ folders; docs/nan.md says how it comes about."
        raise UserError(f"The loss of {trained.checkpoint.path.as_posix()} is not finite.", cure=cure)
    result: dict[str, Any] = {
        "run": trained.folder.as_posix(),
        "step": trained.step,
        "data": other or "held out",
        "loss": nats / tokens,
        "perplexity": math.exp(min(nats / tokens, 700)),
        # The vocabulary drops out of this one, so that models with other tokenizers can be compared.
        "bits_per_byte": nats / math.log(2) / prepared.meta["val"]["bytes"],
        "tokens": tokens,
        "bytes": prepared.meta["val"]["bytes"],
    }
    if as_json:
        print(json.dumps(result))
        return
    size, text = f"{tokens:,} tokens ({result['bytes']:,} bytes)", other or "held-out text"
    print(f"{result['run']} at step {trained.step}, on {size} of {text}:")
    numbers = (result["loss"], result["perplexity"], result["bits_per_byte"])
    print("  loss {:.4f} nats per token, perplexity {:.2f}, {:.4f} bits per byte".format(*numbers))


def other_path(data: str | None, overrides: list[str]) -> str | None:
    """Return the path that `--data PATH` or `data.path=PATH` names; None for the run's own text."""
    for word in overrides:
        if not word.startswith("data.path="):
            raise UserError(
                f"evaluate.py cannot change {word!r}: a model is scored as it was trained.",
                cure="It takes data.path=PATH (or --data PATH) to score other text.",
            )
        data = word.removeprefix("data.path=")
    return data


def validation_data(trained: Trained) -> Prepared:
    """Return the run's own prepared data, made again where they were cleared; refuse text that has changed since."""
    prepared = prepare_data(trained.cfg, vocabulary_size(trained.cfg.model, model_config(trained.cfg.model)))
    if prepared.tokenizer.to_str() != trained.tokenizer.to_str():
        raise UserError(
            f"The text of {trained.folder} has changed since it was trained: its tokenizer is another one now.",
            cure="Score it where the text is as it was, train again on the new text, or name text with data.path=PATH.",
        )
    if not prepared.meta["val"]["tokens"]:
        raise UserError(
            f"{trained.folder} was trained on all of its text: none is held out.",
            cure="Name text to score it on with data.path=PATH.",
        )
    return prepared


def other_data(trained: Trained, path: str, folder: Path) -> Prepared:
    """Return the text at `path`, read as the run reads its own and encoded with the run's tokenizer, in `folder`."""
    own = trained.cfg.data.source  # one that takes no path is of no use for another text
    config = own if "path" in own else {"_target_": "lm.data.sources.TextSource"}
    source = instantiate(OmegaConf.merge(config, {"path": path}))
    source.check()
    end = end_of_text(trained.tokenizer, trained.model)
    if end is None:
        raise UserError(f"The tokenizer of {trained.folder} does not say which token ends a text.")
    return encode_only(trained.tokenizer, end, source, folder)


@torch.no_grad()
def score(trained: Trained, prepared: Prepared, batch_size: int = 8) -> tuple[float, int]:
    """Return the sum of losses in nats over the validation tokens, each predicted once, and their number. In
    float32, and in windows or in rows as the run was trained."""
    if trained.attention == "flash_attention_2":  # it keeps documents apart in batches of one row only
        batch_size = 1
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        windows(prepared, "val", trained.context, packing=trained.cfg.data.get("packing", True)),
        batch_size=batch_size,
        collate_fn=lambda rows: collate(rows, batch_size),
    )
    options = {"use_cache": False} if isinstance(trained.model, PreTrainedModel) else {}
    nats, tokens = 0.0, 0
    for batch in watched(loader, len(loader), "batches"):
        batch = {name: tensor.to(trained.device) for name, tensor in batch.items()}
        output = trained.model(**model_inputs(batch), **options)
        logits = output if isinstance(output, Tensor) else output.logits
        total, valid = loss_sums(logits, batch["labels"])
        nats += total.item()
        tokens += int(valid.item())
    return nats, tokens
