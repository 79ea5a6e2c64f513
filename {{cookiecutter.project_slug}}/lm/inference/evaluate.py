"""Score a trained model: the story of evaluate.py, on the text that its run held out or on any other."""

import functools
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

from harness.console import watched
from harness.data.choices import read_questions
from harness.data.layout import Sliding
from harness.errors import UserError
from harness.report.score import Measured, of_all, show
from lm.batch import logits_of
from lm.data.datamodule import collate, windows
from lm.data.prepare import Prepared, encode_only
from lm.data.sets import prepare_all
from lm.data.tokenizer import TokenizerChoice
from lm.data.windows import Rows
from lm.inference.choices import answered
from lm.inference.load import Trained, device_of, load
from lm.models.build import model_config, vocabulary_size
from lm.module import loss_sums


def evaluate(
    path: str,
    data: str | None,
    overrides: list[str],
    as_json: bool,
    stride: int | None = None,
    choices: str | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Print the loss, perplexity and bits per byte of a run on its held-out text, or on the text at `data`; with
    `stride` also those in windows that begin so many tokens apart; or how it answers the questions at `choices`."""
    other = overrides[-1] if overrides else data
    if choices is not None:
        if other or stride:
            raise UserError("--choices asks questions: it takes no text and no stride.", cure="Type two commands.")
        answer(load(path, trust=trust), choices, as_json)
        return
    trained = load(path, parts=("model", "data.source" if other else "data"), trust=trust)
    if stride and stride >= trained.context:
        what = f"--stride {stride} is too large for a context of {trained.context} tokens: not each would be predicted"
        raise UserError(f"{what}.", cure=f"Half of the context is usual: --stride {trained.context // 2}.")
    where = other or "held-out text"
    result: dict[str, Any] = {"run": trained.folder.as_posix(), "step": trained.step, "data": other or "held out"}
    with tempfile.TemporaryDirectory() as temporary:
        parts = {"": other_data(trained, other, Path(temporary))} if other else validation_data(trained)
        result |= of_all({name: measure(trained, part) for name, part in parts.items()}, where)
        if stride:
            sliding = {name: measure(trained, part, stride) for name, part in parts.items()}
            result["sliding"] = {"stride": stride, **of_all(sliding, where)}
    if as_json:
        print(json.dumps(result))
        return
    print("{run} at step {step}, on {tokens:,} tokens ({bytes:,} bytes) of {}:".format(where, **result))
    show(result)
    if stride:
        print(f"each token after at least {trained.context - stride} others (--stride {stride}):")
        show(result["sliding"])


def answer(trained: Trained, path: str, as_json: bool) -> None:
    questions = read_questions(Path(path))
    forward = functools.partial(logits_of, trained.model)
    found = answered(forward, trained.tokenizer, questions, device_of(trained.model), context=trained.context)
    result = {"run": trained.folder.as_posix(), "step": trained.step, "data": path, **found._asdict()}
    print(json.dumps(result) if as_json else "{run} at step {step}, on {data}:\n  {}".format(found, **result))


def validation_data(trained: Trained) -> dict[str, Prepared]:
    """Return the run's own prepared data by set, made again where they were cleared; refuse text that has changed."""
    prepared = prepare_all(trained.cfg, vocabulary_size(trained.cfg.model, model_config(trained.cfg.model)))
    if any(part.tokenizer.to_str() != trained.tokenizer.to_str() for part in prepared.values()):
        raise UserError(
            f"The text of {trained.folder} has changed since it was trained: its tokenizer is another one now.",
            cure="Score it where the text is as it was, train again on the new text, or name text with data.path=PATH.",
        )
    held_out = {name: part for name, part in prepared.items() if part.meta["val"]["tokens"]}
    if not held_out:
        raise UserError(
            f"{trained.folder} was trained on all of its text: none is held out.",
            cure="Name text to score it on with data.path=PATH.",
        )
    return held_out


def other_data(trained: Trained, path: str, folder: Path) -> Prepared:
    """Return the text at `path`, read as the run reads its own and encoded with the run's tokenizer, in `folder`."""
    own = trained.cfg.data.get("source") or {}  # one that takes no path is of no use for another text
    config = own if "path" in own else {"_target_": "lm.data.sources.TextSource"}
    source = instantiate(OmegaConf.merge(config, {"path": path}))
    source.check()
    return encode_only(TokenizerChoice(path=str(trained.checkpoint.path)), source, folder)


def measure(trained: Trained, part: Prepared, stride: int | None = None) -> Measured:
    nats, tokens = score(trained, part, stride)
    if not math.isfinite(nats):
        cure = "Name an earlier one of the run's checkpoints/ folders; docs/nan.md says how it comes about."
        raise UserError(f"The loss of {trained.checkpoint.path.as_posix()} is not finite.", cure=cure)
    return Measured(nats, tokens, part.meta["val"]["bytes"])


@torch.no_grad()
def score(trained: Trained, prepared: Prepared, stride: int | None = None, batch_size: int = 8) -> tuple[float, int]:
    """Return the sum of losses in nats over the validation tokens, each predicted once, and their number. In
    float32, and in windows or in rows as the run was trained, or in windows that slide by `stride` tokens."""
    packing = trained.cfg.data.get("packing", True)
    if stride:
        layout = Sliding.over(prepared, "val", trained.context, stride, across=packing is True)
        mask = prepared.loss_mask("val")
        rows = Rows(prepared.numbers("val"), prepared.dtype, layout, loss_mask=mask)
    else:
        rows = windows(prepared, "val", trained.context, packing=packing)
    if trained.attention == "flash_attention_2":  # it keeps documents apart in batches of one row only
        batch_size = 1
    together = functools.partial(collate, batch_size=batch_size)
    loader: DataLoader[dict[str, Tensor]] = DataLoader(rows, batch_size, collate_fn=together)
    nats, tokens = 0.0, 0
    for batch in watched(loader, len(loader), "batches"):
        batch = {name: tensor.to(trained.device) for name, tensor in batch.items()}
        total, valid = loss_sums(logits_of(trained.model, batch), batch["labels"])
        nats += total.item()
        tokens += int(valid.item())
    return nats, tokens
