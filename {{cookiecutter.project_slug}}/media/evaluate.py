"""Score a run with media: its loss, and for each kind whether the model uses what it is shown.

A run without encoders is scored as text: lm/inference/evaluate.py.
"""

import copy
import functools
import json
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from harness.checkpoint.resume import locate
from harness.console import watched
from harness.data.material import build_data_module
from harness.errors import UserError
from harness.report.learning import GAP
from harness.report.score import Measured, of_all, show
from harness.run import folder as run_folder
from lm.batch import logits_of
from lm.data.prepare import encode_only
from lm.data.tokenizer import TokenizerChoice
from lm.inference import evaluate as text
from lm.inference.load import Trained, device_of, load
from lm.keys import Data
from lm.module import loss_sums
from media.answers import Answered, answered
from media.datamodule import MediaData
from media.model import SeeingAndHearing

ROWS = 8  # at a time
MOST = 512  # documents of each kind that are swapped among each other, in memory


def evaluate(
    path: str,
    data: str | None,
    overrides: list[str],
    as_json: bool,
    stride: int | None = None,
    choices: str | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Print what lm.inference.evaluate does and, for each kind of media, the loss with the own and with another
    document's."""
    if run_folder.config(locate(Path(path))[0]).get("encoders") is None or choices is not None:
        text.evaluate(path, data, overrides, as_json, stride, choices, trust)
        return
    if stride:
        raise UserError("--stride slides over text: a document with media is scored whole.", cure="Leave it out.")
    trained, other = load(path, parts=("model", "data"), trust=trust), overrides[-1] if overrides else data
    where = other or "held-out documents"
    result: dict[str, Any] = {"run": trained.folder.as_posix(), "step": trained.step, "data": other or "held out"}
    with tempfile.TemporaryDirectory() as temporary:
        documents = other_documents(trained, other, Path(temporary)) if other else held_out(trained)
        result |= of_all({"": measure(trained, documents)}, where)
        scores = {kind: score for kind in documents.slots if (score := scored(trained, documents, kind))}
    if as_json:
        print(json.dumps(result | {"media": {kind: score._asdict() for kind, score in scores.items()}}))
        return
    print("{run} at step {step}, on {tokens:,} tokens ({bytes:,} bytes) of {}:".format(where, **result))
    show(result)
    for kind, score in scores.items():
        print(f"  {kind}: {score}")
        if score.other - score.own < GAP:
            print(f"  The model does not use its {kind} input: docs/troubleshooting.md says why that may be.")


def held_out(trained: Trained) -> MediaData:
    """Return the run's own data, made again where they were cleared. Raises UserError where they have changed."""
    cfg, model = trained.cfg, trained.model
    assert isinstance(model, SeeingAndHearing)
    data = _module(cfg)
    data.connect(vocab_size=model.config.vocab_size, context=trained.context, seed=cfg.seed)
    if data.tokenizer.to_str() != trained.tokenizer.to_str():
        raise UserError(
            f"The data of {trained.folder} have changed since it was trained: their tokenizer is another one now.",
            cure="Score it where they are as they were, or name documents with data.path=PATH.",
        )
    if data.val_set is None:
        raise UserError(f"{trained.folder} was trained on all of its documents.", cure="Name some with data.path=PATH.")
    return data


def other_documents(trained: Trained, path: str, folder: Path) -> MediaData:
    """Return the documents at `path`, read as the run reads its own, prepared with its tokenizer in `folder`."""
    cfg = copy.deepcopy(trained.cfg)
    if "path" not in cfg.data.source:
        raise UserError(f"data={cfg.data.name} takes no path.", cure="Leave data.path out: a share is held out.")
    OmegaConf.update(cfg, "data.source.path", path)
    OmegaConf.update(cfg, "data.val_path", None)
    data = _module(cfg)
    data.source.check()
    data.open(encode_only(TokenizerChoice(path=str(trained.checkpoint.path)), data.source, folder), trained.context)
    return data


def _module(cfg: DictConfig) -> MediaData:
    data: MediaData = build_data_module(cfg.data, Data.kept)
    data.batch_size = ROWS
    return data


@torch.no_grad()
def measure(trained: Trained, data: MediaData) -> Measured:
    """Return the loss over all held-out documents, in rows as in training."""
    nats, tokens = 0.0, 0
    assert data.val_set is not None
    loader: DataLoader[Any] = DataLoader(data.val_set, ROWS, collate_fn=data.collate)
    for batch in watched(loader, len(loader), "batches"):
        batch = {name: tensor.to(trained.device) for name, tensor in batch.items()}
        total, valid = loss_sums(logits_of(trained.model, batch), batch["labels"])
        nats, tokens = nats + total.item(), tokens + int(valid.item())
    return Measured(nats, tokens, data.prepared.meta["val"]["bytes"])


def scored(trained: Trained, data: MediaData, kind: str) -> Answered | None:
    """Return what swapping the media of a kind changes; None with fewer than two documents that have some."""
    rows = list(islice(data.held_out(kind), MOST))
    if len(rows) < 2:
        return None
    forward = functools.partial(logits_of, trained.model)
    return answered(forward, rows, kind, device_of(trained.model), batch_size=ROWS)
