"""The debug presets and debug.py: what they change, what they leave on, and that they combine."""

import csv
import re
import subprocess
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
from places import PROJECT

from harness.config.check import check
from harness.config.compose import CONF, compose, normalize_overrides

PRESETS = sorted(file.stem for file in (CONF / "debug").glob("*.yaml"))
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml") if file.stem != "base")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def composes(preset: str, model: str) -> None:
    cfg = compose([f"+debug={preset}", f"model={model}"])
    check(cfg)
    assert cfg.run.root.startswith(cfg.debug.folder)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes(preset: str) -> None:
    composes(preset, "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_with_every_model(preset: str, model: str) -> None:
    composes(preset, model)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_keeps_guard_checkpoints_and_logs_on(preset: str) -> None:
    usual, debug = compose(), compose([f"+debug={preset}"])
    assert set(usual.callbacks) <= set(debug.callbacks)
    assert list(usual.logger) == list(debug.logger)
    assert None not in {**debug.callbacks, **debug.logger}.values()
    assert debug.trainer.get("enable_checkpointing") is not False
    assert not debug.trainer.get("fast_dev_run")
    assert debug.checkpoint.every_n_steps <= usual.checkpoint.every_n_steps


def test_presets_combine_in_any_order_and_default_undoes_none_of_them() -> None:
    for names in permutations(["mps", "overfit", "resume"]):
        cfg = compose([f"+debug=[{','.join(names)}]"])
        assert cfg.trainer.accelerator == "mps"
        assert cfg.trainer.overfit_batches == 1
        assert (cfg.resume, cfg.debug.clean) == ("auto", False)
        assert cfg.data.batch_size == 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("+debug=mps", "+debug=[default,mps]"),
        ("debug=mps", "+debug=[default,mps]"),
        ("+debug=default", "+debug=[default]"),
        ("+debug=[mps, overfit]", "+debug=[default,mps,overfit]"),
        ("+debug=mps,cpu", "+debug=[default,mps],[default,cpu]"),
        ("+debug=[mps,fast],cpu", "+debug=[default,mps,fast],[default,cpu]"),
        ("+debug=[default,mps]", "+debug=[default,mps]"),
        ("+debug=nan", "+debug=[default,'nan']"),
        ("+debug=[default,'nan']", "+debug=[default,'nan']"),
        ("debug.clean=false", "++debug.clean=false"),
    ],
)
def test_every_spelling_of_a_preset_stands_on_default(typed: str, meant: str) -> None:
    assert list(normalize_overrides([typed])) == [meant]


def test_presets_lose_to_the_command_line() -> None:
    cfg = compose(["+debug=mps", "trainer.max_steps=7", "trainer.accelerator=cpu", "env.TOKENIZERS_PARALLELISM=true"])
    assert (cfg.trainer.max_steps, cfg.trainer.accelerator, cfg.env.TOKENIZERS_PARALLELISM) == (7, "cpu", True)


def test_default_is_one_process_and_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DEBUG_FOLDER", "/debug/1")
    cfg = compose(["+debug=default"])
    assert (cfg.data.num_workers, cfg.data.batch_size, cfg.trainer.devices, cfg.trainer.max_steps) == (0, 1, 1, 5)
    assert cfg.env.HF_DATASETS_CACHE == "/debug/1/hf/datasets"
    assert (cfg.run.root, cfg.data.prepared) == ("/debug/1/outputs", "/debug/1/prepared")


@pytest.mark.parametrize(("given", "first"), [(None, "0"), ("3", "3"), ("5,6", "5,6")])
def test_cuda_keeps_to_the_devices_that_one_may_use(
    monkeypatch: pytest.MonkeyPatch, given: str | None, first: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert str(compose(["+debug=cuda"]).env.CUDA_VISIBLE_DEVICES) == first


def test_a_typo_in_a_preset_names_the_nearest(command: Command) -> None:
    done = command("debug.py", "+debug=overfitt")
    assert done.returncode == 2
    assert "overfit" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_overfit_trains_on_the_same_windows_every_epoch(train: Callable[..., Path]) -> None:
    """The words of the corpus are random, so that a loss below a nat can only come from seeing the same ones again."""
    folder = train(
        "trainer.overfit_batches=1", "trainer.max_steps=40", "optimizer.lr=1e-2", "trainer.log_every_n_steps=1"
    )
    rows = csv.DictReader((folder / "metrics.csv").read_text(encoding="utf-8").splitlines())
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert losses[-1] < 1.0 < losses[0]


def test_the_page_on_debugging_names_every_preset_and_only_what_exists() -> None:
    page = (PROJECT / "docs" / "debugging.md").read_text(encoding="utf-8")
    table = page.split("## Which preset?")[1].split("They combine")[0]
    assert set(re.findall(r"`(\w+)`(?=[^|]*\| )", table)) == set(PRESETS)
    for file in re.findall(r"`((?:lm|devtools|conf)/[\w/]+\.(?:py|yaml|md))`", page):
        assert (PROJECT / file).is_file() or "NAME" in file, file
    for file, name in re.findall(r"\| `(lm/[\w/]+\.py)` \| .*?`(\w+)`", page):
        assert f"def {name}" in (PROJECT / file).read_text(encoding="utf-8"), (file, name)
    for name in re.findall(r"`((?:Debug|Attach): [^`]+)`", page):
        assert f'"name": "{name}' in (PROJECT / ".vscode" / "launch.json").read_text(encoding="utf-8"), name
