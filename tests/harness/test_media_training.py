"""A run with pictures and sounds is trained, checked and resumed like any other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exactness import assert_same, newest
from omegaconf import OmegaConf

from harness.checkpoint import read
from harness.config.check import check
from harness.config.compose import compose
from harness.config.identity import digest
from harness.errors import UserError
from harness.report.read import read as read_run
from harness.report.rules import judge
from harness.telemetry import events
from hooks import PowerCut
from lm import fit

SMALL = (
    "experiment=omni", "data.source.count=60", "data.batch_size=4", "model.config.num_hidden_layers=1",
    "model.config.hidden_size=32", "model.config.intermediate_size=64", "encoders.image.config.hidden_size=16",
    "encoders.image.config.intermediate_size=32", "encoders.image.config.image_size=64",
    "encoders.audio.config.d_model=16", "data.val_fraction=0.3",
    "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=4", "scheduler.warmup_steps=1", "logger=csv",
    "callbacks.perception.documents=4", "trainer.log_every_n_steps=1",
)  # fmt: skip

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def train(prepared: Path, tmp_path: Path) -> Train:
    def run(*overrides: str) -> Path:
        cfg = compose([*SMALL, f"data.prepared={prepared}", f"run.root={tmp_path / 'runs'}", *overrides])
        check(cfg)
        OmegaConf.resolve(cfg)
        fit.train(cfg)
        return Path(cfg.run.dir)

    return run


def test_a_run_says_its_parts_and_whether_it_looks_and_listens(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("callbacks.answers.every_n_steps=2")
    closing = capsys.readouterr().out
    assert "image of '" in closing and "audio of '" in closing
    told = list(events.read(events.log_path(folder)))
    (start,) = (event["data"] for event in told if event["event_type"] == "fit_start")
    assert [part["part"] for part in start["parts"]] == [
        "encoders.image", "projectors.image", "encoders.audio", "projectors.audio", "language_model",
    ]  # fmt: skip
    validation = [event["data"] for event in told if event["event_type"] == "validation"][-1]
    assert {f"{kind}/{name}" for kind in ("image", "audio") for name in ("own", "other", "right")} < set(validation)
    (first,) = (event["data"] for event in told if event["event_type"] == "first_step")
    assert not first["not_moved"] and not first["strayed"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["prompt"].partition(":")[0] for line in samples} == {"image 1", "image 2", "audio 1", "audio 2"}
    (said,) = (symptom for symptom in judge(read_run(folder)) if "input" in symptom.title or "shown" in symptom.title)
    assert "nats a document with its own" in said.evidence


def test_text_runs_know_nothing_of_encoders() -> None:
    cfg = compose(["model=tiny"])
    assert "encoders" not in cfg and "wrapper" not in cfg.model and cfg.known_keys == "lm.keys"
    assert digest(cfg) != digest(compose(["model=tiny", "encoders=tiny"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("encoders.image.lr_scale=-1", "encoders.image.lr_scale"),
        ("+encoders.image.lr_scal=1", "lr_scale"),
        ("encoders.image.layer=0", "encoders.image.layer"),
        ("model=lora", "does not train beside encoders"),
        ("+encoders.image.name=x", "has both a config and a name"),
        ("encoders.image.config._target_=transformers.SiglipVizionConfig", "does not exist"),
    ],
)
def test_a_typo_is_answered_before_anything_is_loaded(words: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(compose([*SMALL, words]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("data.num_workers=2",),
        ("data.packing=false",),
        ("data.packing=document", "trainer.accumulate_grad_batches=2"),
    ],
    ids=" ".join,
)
def test_a_run_that_was_cut_ends_as_one_that_was_not(train: Train, words: tuple[str, ...]) -> None:
    usual = (*words, "checkpoint.every_n_steps=2", "trainer.max_steps=6")
    straight = train(*usual, "run.name=straight")
    cut = (*usual, "run.name=cut")
    with pytest.raises(PowerCut):
        train(*cut, "+callbacks.cut={_target_:hooks.CutAt,hook:step,step:3}")
    assert_same(train(*cut, "+callbacks.cut={_target_:hooks.CutAt,hook:step,step:99}"), straight)


@pytest.mark.slow
def test_a_frozen_encoder_has_the_same_bits_at_the_end(train: Train) -> None:
    folder = train("encoders.image.lr_scale=0", "checkpoint.every_n_steps=1", "checkpoint.keep_last=9")
    first, last = (read.load_weights(found) for found in read.checkpoints(folder / "checkpoints")[::3])
    frozen = [name for name in last if "encoders.image" in name]
    assert frozen and all(torch.equal(first[name], last[name]) for name in frozen)
    assert any(not torch.equal(first[name], last[name]) for name in last if "projectors.image" in name)


@pytest.mark.slow
def test_nan_in_one_clips_features_is_skipped_and_replayed_to_its_module(train: Train, prepared: Path) -> None:
    from harness.replay.rerun import rerun

    train("trainer.max_steps=1", "run.name=first")
    (file,) = prepared.glob("*/train.audio.bin")
    good = file.read_bytes()
    try:
        with file.open("r+b") as opened:
            opened.write(np.float32(np.nan).tobytes())
        folder = train("trainer.max_steps=9", "run.name=broken", "checkpoint.every_n_steps=2")
        skipped = [event for event in events.read(events.log_path(folder)) if event["event_type"] == "nan_skip"]
        assert skipped
        verdict = rerun(sorted((folder / "nan").iterdir())[0], fit.train)
    finally:
        file.write_bytes(good)
    assert verdict.same_batches
    assert verdict.found is not None and str(verdict.found) == "the output of input (audio)"
    assert all(tensor.isfinite().all() for tensor in read.load_weights(newest(folder)).values())


@pytest.mark.slow
def test_the_weights_of_an_earlier_run_begin_the_next_one(train: Train, tmp_path: Path, corpus: Path) -> None:
    model = [word for word in SMALL if word.startswith(("model", "trainer"))]
    sizes = ["model=tiny", "model.config.max_position_embeddings=96", "model.config.vocab_size=320", "logger=none"]
    where = [f"data.path={corpus}", f"data.prepared={tmp_path}", f"run.root={tmp_path}", "run.name=text"]
    cfg = compose([*sizes, *model, "data=text", *where])
    OmegaConf.resolve(cfg)
    fit.train(cfg)
    allowed = "start_from_allow=['encoders.*','projectors.*']"
    first = train("trainer.max_steps=1", f"start_from={tmp_path / 'text'}", allowed, "optimizer.lr=0")
    second = train("trainer.max_steps=1", f"start_from={first}", "optimizer.lr=0", "run.name=second")
    text, one, other = (read.load_weights(newest(folder)) for folder in (tmp_path / "text", first, second))
    assert all(torch.equal(text[name], one[f"language_model.{name}"]) for name in text)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_parts_of_llavas_training_are_experiments() -> None:
    first, second = (compose([f"experiment={name}"]) for name in ("llava_projector", "llava_together"))
    rates: list[Any] = [
        (cfg.encoders.image.lr_scale, cfg.encoders.image.projector.lr_scale, cfg.encoders.language_model.lr_scale)
        for cfg in (first, second)
    ]
    assert rates == [(0, 1.0, 0), (0, 1.0, 1.0)]
