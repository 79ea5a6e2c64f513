"""Mixtures: the weights hold at every position, small sets have epochs of their own, and runs resume exactly."""

import json
import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixtures import three_sets
from omegaconf import DictConfig

from conftest import SMALL
from harness.config.check import check
from harness.data.mixture import Schedule, pattern
from harness.data.sets import weights_of
from harness.errors import UserError
from lm.fit import build_data
from lm.keys import Keys
from lm.models.build import model_config


def shares(*parts: float) -> list[Fraction]:
    return weights_of({str(number): {"weight": part} for number, part in enumerate(parts)})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_each_set_has_its_weight_within_one_window_at_every_position(parts: list[int]) -> None:
    weights = shares(*parts)
    counts = [0] * len(parts)
    for position, number in enumerate(pattern(weights).tolist(), start=1):
        counts[number] += 1
        assert all(abs(count - weight * position) < 1 for count, weight in zip(counts, weights, strict=True))
    assert counts == [weight * len(pattern(weights)) for weight in weights]


def test_the_issues_weights_hold_over_many_rounds_and_each_set_has_epochs_of_its_own() -> None:
    sizes, weights = [1000, 30, 7], shares(0.5, 0.3, 0.2)
    schedule = Schedule(sizes, weights, seed=3)
    rows = schedule(np.arange(4000))
    which = np.searchsorted(np.cumsum(sizes), rows, side="right")
    for number, weight in enumerate(weights):
        counts = np.cumsum(which == number)
        assert (np.abs(counts - float(weight) * np.arange(1, 4001)) < 1).all()
        mine = rows[which == number]
        for epoch in range(len(mine) // sizes[number]):  # each row once in each epoch, in another order
            assert Counter(mine[epoch * sizes[number] :][: sizes[number]]) == Counter(set(mine))
    assert not np.array_equal(rows[which == 2][:7], rows[which == 2][7:14])
    assert schedule.epochs(4000) == [2.0, 40.0, pytest.approx(800 / 7)]


@given(st.integers(0, 10**12), st.integers(1, 50))
def test_a_position_is_a_function_of_itself(start: int, count: int) -> None:
    schedule = Schedule([50, 20], shares(2, 3), seed=0)
    together = schedule(np.arange(start, start + count))
    assert together.tolist() == [int(schedule(np.array([position]))[0]) for position in range(start, start + count)]


@pytest.mark.parametrize("weight", [0, -1, "much", None, True, math.nan, math.inf])
def test_what_is_no_weight_is_a_sentence(weight: object) -> None:
    with pytest.raises(UserError, match=r"data\.sets\.a\.weight="):
        weights_of({"a": {"weight": weight}})
    with pytest.raises(UserError, match="fewer digits"):
        weights_of({"a": {"weight": 0.3333333}, "b": {"weight": 0.6666668}})


@pytest.fixture
def three(corpus: Path, tmp_path: Path) -> str:
    return three_sets(corpus, tmp_path)


def test_three_sets_have_one_tokenizer_and_a_validation_loss_each(
    compose: Callable[..., DictConfig], train: Callable[..., Path], three: str, caplog: pytest.LogCaptureFixture
) -> None:
    mixture = ("data=mixture", three, "data.val_fraction=0.2")
    cfg = compose(*mixture)
    check(cfg)
    data = build_data(cfg, model_config(cfg.model))
    tokenizers = {part.tokenizer.to_str() for part in data.parts.values()}
    assert len(tokenizers) == 1 and data.tokenizer.token_to_id("<|im_start|>") is not None
    assert "jsonl" in caplog.text or caplog.text == ""
    folder = train(*mixture, "trainer.max_steps=2", "logger=csv")
    header = (folder / "metrics.csv").read_text("utf-8").splitlines()[0].split(",")
    assert {"val/loss", "val/loss/poems", "val/loss/jsonl", "val/loss/talks"} <= set(header)


def test_the_loss_of_all_is_the_mean_over_the_labels_of_each(train: Callable[..., Path], three: str) -> None:
    folder = train(
        "data=mixture", three, "data.val_fraction=0.2", "trainer.max_steps=1", "logger=csv", "data.batch_size=3"
    )
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text("utf-8").splitlines()]
    row = next(dict(zip(lines[0], line, strict=False)) for line in reversed(lines) if line[lines[0].index("val/loss")])
    parts = [float(row[f"val/loss/{name}"]) for name in ("poems", "jsonl", "talks")]
    assert min(parts) < float(row["val/loss"]) < max(parts)


def test_a_mixture_trains_from_the_command_line(command: Callable[..., object], three: str) -> None:
    """Where Hydra is running, which allows one composition at a time."""
    words = ("train.py", *SMALL, "data=mixture", three, "data.val_fraction=0.2", "trainer.max_steps=1")
    done = command(*words)
    assert done.returncode == 0 and "20.0% of the mixture; seen " in done.stderr, done.stderr


def test_evaluation_tells_each_set(train: Callable[..., Path], three: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lm.inference.evaluate import evaluate

    folder = train("data=mixture", three, "data.val_fraction=0.2", "trainer.max_steps=1", "logger=csv")
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text("utf-8").splitlines()]
    row = next(dict(zip(lines[0], line, strict=False)) for line in reversed(lines) if line[lines[0].index("val/loss")])
    evaluate(str(folder), None, [], as_json=True)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["loss"] == pytest.approx(float(row["val/loss"]), rel=1e-4)
    for name in ("poems", "jsonl", "talks"):
        assert result["sets"][name]["loss"] == pytest.approx(float(row[f"val/loss/{name}"]), rel=1e-4)


def test_a_mixture_resumes_exactly(train: Callable[..., Path], three: str) -> None:
    same = ("data=mixture", three, "data.val_fraction=0.2", "checkpoint.every_n_steps=1", "scheduler=constant")
    for steps in (1, 3, 4):
        cut = train(*same, "run.name=cut", f"trainer.max_steps={steps}")
    whole = train(*same, "run.name=whole", "trainer.max_steps=4")
    one, other = ((run / "checkpoints" / "step-00000004" / "model.safetensors").read_bytes() for run in (cut, whole))
    assert one == other


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("{}", "needs to know which sets"),
        ("{a:{data:txt,weight:1}}", "there is no data=txt. Did you mean text?"),
        ("{text:{pth:x,weight:1}}", r"data.sets.text.pth.*Did you mean path?"),
        ("{text:{path:/absent,weight:1}}", "There is no file at data.path=/absent"),
        ("{stdlib:{weight:-1}}", "is not a number above 0"),
        ("{stdlib:{weight:1,limit:-3}}", "data.sets.stdlib: data.limit"),
    ],
)
def test_a_wrong_set_is_a_sentence_before_torch(compose: Callable[..., DictConfig], sets: str, said: str) -> None:
    cfg = compose("data=mixture", f"data.sets={sets}")
    with pytest.raises(UserError, match=said.replace(".", r"\.").replace("?", r"\?").replace(r"\.*", ".*")):
        check(cfg)
        Keys.look(cfg)
