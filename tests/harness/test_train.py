"""Each entry point once, as a user types it, on a model of a few thousand parameters."""

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.errors import UserError
from lm.inference.generate import generate
from lm.inference.load import load

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def the_run(root: Path) -> Path:
    (folder,) = root.iterdir()
    return folder


def test_train_then_generate_then_evaluate(command: Command, small: list[str], tmp_path: Path) -> None:
    done = command("train.py", *small)
    assert done.returncode == 0, done.stderr
    folder = the_run(tmp_path / "runs")
    assert re.search(r"validation loss +\d\.\d{4} nats per token", done.stdout)
    for line in done.stdout.splitlines():
        assert "Traceback" not in line
    diary = json.loads((folder / "run.json").read_text("utf-8"))
    assert diary["status"] == "finished"
    assert diary["attempts"][0]["versions"]["torch"] == torch.__version__
    losses = [
        row["val/loss"]
        for row in csv.DictReader((folder / "metrics.csv").read_text("utf-8").splitlines())
        if row.get("val/loss")
    ]
    assert float(losses[-1]) < 6

    scored = json.loads(command("evaluate.py", str(folder), "--json").stdout)
    assert scored["loss"] == pytest.approx(float(losses[-1]), rel=1e-3)

    told = command("generate.py", str(folder), "--max-tokens", "20", "--prompt", "def ")
    assert told.stdout.startswith("def ") and len(told.stdout) > 10, told.stderr


def test_a_seed_gives_its_own_text(train: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(train("trainer.max_steps=1"))
    texts = []
    for seed in (0, 0, 1):
        capsys.readouterr()
        generate(folder, "def ", max_tokens=20, temperature=0.8, top_k=50, seed=seed)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_what_is_no_run_is_a_sentence(train: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        load(str(tmp_path))
    folder = train("trainer.max_steps=1")
    with (folder / "checkpoints/step-00000001/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(UserError, match="model.safetensors was changed after it was written"):
        load(str(folder))


@pytest.mark.slow
def test_a_debug_run_is_small_and_separate(command: Command, small: list[str], tmp_path: Path) -> None:
    done = command(
        "debug.py", *[word for word in small if not word.startswith(("trainer.max_steps", "data.batch_size"))]
    )
    assert done.returncode == 0, done.stderr


def test_a_multirun_gives_each_job_a_folder(command: Command, small: list[str], tmp_path: Path) -> None:
    done = command("train.py", "-m", *small, "optimizer.lr=1e-3,3e-4", "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr
    sweep = the_run(tmp_path / "runs")
    assert len(list(sweep.glob("*/checkpoints/step-00000002"))) == 2


def test_a_mistake_in_any_job_stops_a_multirun_before_the_first(
    command: Command, small: list[str], tmp_path: Path
) -> None:
    done = command("train.py", "-m", *small, "optimizer.lr=1e-3,abc")
    assert done.returncode == 2
    assert "optimizer.lr=abc is not a number" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [train(f"seed={seed}", f"run.root={tmp_path / str(place)}") for place, seed in enumerate((0, 0, 1))]
    weights = [load_file(folder / "checkpoints/step-00000006/model.safetensors") for folder in folders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_corpus_smaller_than_a_batch_is_a_sentence(train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="fewer than one batch of 5000 x 16"):
        train("data.batch_size=5000")


@pytest.mark.slow
def test_a_named_run_refuses_another_experiment(command: Command, small: list[str]) -> None:
    assert command("train.py", *small, "run.name=mine", "trainer.max_steps=1").returncode == 0
    done = command("train.py", *small, "run.name=mine", "optimizer.lr=0.5")
    assert done.returncode == 2
    assert "optimizer.lr: 0.001 -> 0.5" in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_and_plain_training_agree(train: Callable[..., Path], tmp_path: Path) -> None:
    folders = [train(f"model.compile={compiled}", f"run.root={tmp_path / compiled}") for compiled in ("false", "true")]
    plain, compiled = (load_file(folder / "checkpoints/step-00000006/model.safetensors") for folder in folders)
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_wandb_without_an_account_is_a_sentence(command: Command, small: list[str], tmp_path: Path) -> None:
    done = command(
        "train.py",
        *small,
        "logger=wandb",
        HOME=str(tmp_path),
        NETRC=str(tmp_path / "netrc"),
        WANDB_API_KEY="",
        WANDB_MODE="online",
    )
    assert done.returncode == 2, done.stderr
    assert "logger.wandb.offline=true" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists(), "said before anything is made or prepared"


@pytest.mark.slow
def test_wandb_works_offline(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = train("logger=wandb")
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
