"""What a plan says of a run is what the run then has: counts exactly, bytes of a checkpoint within a fiftieth."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import regressor
from exactness import newest
from omegaconf import DictConfig, OmegaConf
from places import PROJECT

from harness.checkpoint import read
from harness.plan.amounts import Found, number_of_validations, plan, validation_batches
from harness.plan.child import arranged, look, why_not_here
from harness.plan.command import Order, cost
from harness.plan.measured import Measuring, TooLarge
from harness.report.planned import planned
from harness.report.read import read as read_run
from harness.run import plans
from harness.run.plans import Plan
from harness.telemetry import events

CLUSTER = ("trainer=gpu", "trainer.devices=8", "trainer.num_nodes=8")


@pytest.fixture
def found(compose: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Found]:
    """Look at the smallest run with further overrides, in this process."""
    return lambda *words, counted=False: looked(compose(*words), tmp_path, "lm.fit:train", counted=counted)


@pytest.fixture
def planned_run(compose: Callable[..., DictConfig], found: Callable[..., Found]) -> Callable[..., Plan]:
    def make(*words: str, counted: bool = False) -> Plan:
        why = "so asked" if counted else ""
        return plan(compose(*words).trainer, found(*words, counted=counted), name="x", done=0, why_counted=why)

    return make


def looked(cfg: DictConfig, folder: Path, target: str, *, counted: bool) -> Found:
    order = Order(target, (), "x", str(folder / f"plan-{counted}"), 0)
    return look(arranged(cfg, order, counted=counted), target, counted=counted)


def test_a_measured_plan_is_what_the_run_then_is(planned_run, train) -> None:
    words = ("trainer.accumulate_grad_batches=2", "trainer.val_check_interval=4", "checkpoint.every_n_steps=2")
    expected, run = planned_run(*words), train(*words)
    told = list(events.read(events.log_path(run)))
    start = next(event["data"] for event in told if event["event_type"] == "fit_start")
    assert (expected.parameters, expected.trainable) == (start["parameters"]["total"], start["parameters"]["trainable"])
    assert (expected.windows, expected.held_out) == (start["data"]["train_set"], start["data"]["val_set"])
    assert expected.epochs == start["data"]["epochs"]
    checkpoint = newest(run)
    assert expected.steps == checkpoint.step
    assert expected.steps * expected.step_windows == read.load_trainer(checkpoint)["LmData"]["windows"]
    assert expected.step_units == expected.step_windows * 16 and expected.unit == "tokens"
    assert expected.checkpoint_bytes == pytest.approx(checkpoint.bytes, rel=0.02)
    assert expected.disk_bytes == expected.checkpoints * expected.checkpoint_bytes
    assert expected.checkpoints >= len(read.checkpoints(run / "checkpoints"))
    assert expected.data["train"]["tokens"] == checkpoint.manifest["data"]["train"]["tokens"]
    trained, parts = expected.trainable, {"steps", "validation", "checkpoints", "samples", "beginning"}
    assert expected.memory["gradients"] == 4 * trained and set(expected.seconds) == parts
    assert expected.memory["moments"] == pytest.approx(8 * trained, rel=0.01)
    assert len([event for event in told if event["event_type"] == "validation"]) == 3


def test_counting_agrees_with_measuring(planned_run) -> None:
    counted, measured = planned_run(counted=True), planned_run()
    same = ("parameters", "trainable", "windows", "held_out", "steps", "step_windows", "step_units", "epochs", "data")
    assert [getattr(counted, name) for name in same] == [getattr(measured, name) for name in same]
    for part in ("weights", "gradients", "moments"):
        assert counted.memory[part] == measured.memory[part]
    assert not counted.seconds and counted.operations > 0
    tensors = counted.memory["weights"] + counted.memory["moments"]
    assert counted.checkpoint_bytes == pytest.approx(tensors, rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_moments_are_those_of_the_optimizer(planned_run, optimizer: str) -> None:
    words = (f"optimizer={optimizer}", "optimizer.lr=1e-3")
    assert planned_run(*words, counted=True).memory["moments"] == planned_run(*words).memory["moments"]


def test_a_cluster_that_is_not_here_is_counted(planned_run, compose) -> None:
    assert why_not_here(compose("trainer=gpu")) == "no cuda device is here"
    alone = planned_run("trainer=gpu", counted=True)
    replicated = planned_run(*CLUSTER, "trainer.strategy=ddp", counted=True)
    sharded = planned_run(*CLUSTER, "trainer.strategy=fsdp", counted=True)
    assert (replicated.devices, replicated.step_windows) == (64, 64 * alone.step_windows)
    assert replicated.peak == alone.peak + alone.memory["gradients"]  # DDP's buckets
    for part in ("weights", "gradients", "moments"):
        assert sharded.memory[part] == -(-alone.memory[part] // 64)
    assert sharded.memory["activations"] == alone.memory["activations"]


@pytest.mark.slow
def test_what_saves_memory_is_seen(planned_run) -> None:
    def activations(*words: str) -> int:
        return planned_run("trainer=gpu", "model.config.num_hidden_layers=8", *words, counted=True).memory[
            "activations"
        ]

    whole = activations("trainer.precision=32-true")
    assert activations("trainer.precision=bf16-mixed") < whole
    assert activations("trainer.precision=32-true", "model.gradient_checkpointing=true") < 0.7 * whole
    # Gradients take the place of activations as the backward pass goes on: what is twice as much is the larger part.
    some, more = (activations("trainer.precision=32-true", f"data.batch_size={rows}") for rows in (16, 32))
    assert more == pytest.approx(2 * some, rel=0.1)
    half = planned_run("trainer=gpu", "trainer.precision=bf16-true", counted=True)
    assert half.memory["gradients"] == 2 * half.parameters


@pytest.mark.parametrize("counted", [False, True])
def test_an_experiment_without_tokens_is_planned_too(tmp_path: Path, counted: bool) -> None:
    cfg = regressor.config(tmp_path / "run")
    looked_at = looked(cfg, tmp_path, "regressor:train", counted=counted)
    made = plan(cfg.trainer, looked_at, name="x", done=0, why_counted="")
    assert (made.parameters, made.steps, made.step_windows, made.step_units, made.unit) == (49, 30, 16, 16, "samples")
    assert not (tmp_path / "run").exists()


VALIDATIONS = [  # trainer, steps, micro-batches of an epoch: how often
    ({"val_check_interval": 200, "check_val_every_n_epoch": None}, 500, 1000, 3),
    ({"val_check_interval": 200, "check_val_every_n_epoch": None, "accumulate_grad_batches": 4}, 500, 1000, 10),
    ({"val_check_interval": 0.5}, 100, 20, 10),
    ({"check_val_every_n_epoch": 2}, 100, 20, 3),
    ({}, 0, 20, 0),
]


@pytest.mark.parametrize(("trainer", "steps", "epoch", "times"), VALIDATIONS)
def test_how_often_a_run_validates(trainer: dict[str, object], steps: int, epoch: int, times: int) -> None:
    assert number_of_validations(OmegaConf.create(trainer), steps, epoch) == times


@pytest.mark.parametrize(("limit", "batches"), [(None, 13), (5, 5), (0.5, 6), (99, 13), (0, 0)])
def test_how_many_batches_a_validation_has(limit: object, batches: int) -> None:
    assert validation_batches(OmegaConf.create({"limit_val_batches": limit}), 50, 4, 1) == batches


def test_what_would_not_fit_is_not_tried(compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Memory", (), {"available": 1000, "total": 10**12})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(TooLarge, match=r"moments alone take 0\.0 GB"):
        looked(compose(), tmp_path, "lm.fit:train", counted=False)


def test_jobs_that_cost_the_same_are_looked_at_once(compose) -> None:
    assert cost(compose("seed=1", "optimizer.lr=1e-4", "run.name=a")) == cost(compose("run.name=b"))
    assert cost(compose("data.batch_size=2")) != cost(compose())
    assert cost(compose("trainer.max_steps=7")) != cost(compose())


def test_the_report_says_how_wrong_a_plan_was(planned_run, train) -> None:
    expected, run = planned_run(), train()
    assert planned(read_run(run)) == {}
    plans.keep(run, expected)
    said = planned(read_run(run))
    assert set(said) == {"memory", "seconds", "checkpoint"}
    assert said["checkpoint"]["ratio"] == pytest.approx(1, abs=0.02)
    assert all(found["ratio"] == found["planned"] / found["actual"] for found in said.values())
    (run.parent / plans.FOLDER / f"{run.name}.json").write_text('{"name": 3}', encoding="utf-8")
    assert planned(read_run(run)) == {}


def test_measuring_is_lightnings_trainer() -> None:
    from lightning.pytorch import Trainer

    assert issubclass(Measuring, Trainer)


@pytest.mark.slow
def test_the_command_leaves_no_run_and_a_sweep_is_summed(command, small: list[str], tmp_path: Path) -> None:
    done = command("train.py", "--plan", *small, "run.name=x")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [plans.FOLDER]
    assert json.loads((tmp_path / "runs" / plans.FOLDER / "x.json").read_text(encoding="utf-8"))["steps"] == 6
    assert command("train.py", *small, "run.name=x").returncode == 0
    report = command("report", "runs/x")
    assert re.search(r"memory: .* planned, .* taken, a ratio of", report.stdout), report.stdout
    again = command("train.py", "--plan", *small, "run.name=x", "trainer.max_steps=8")
    assert "done already      6 steps" in again.stdout, again.stderr
    sweep = ("-m", *small, "sweep.name=s", "trainer.max_steps=2")
    assert command("train.py", *sweep, "seed=0").returncode == 0
    summed = command("train.py", "--plan", *sweep, "seed=0,1,2")
    assert "2 jobs to run, 1 finished." in summed.stdout, summed.stdout + summed.stderr
    assert summed.stderr.count("Planning") == 1 and re.search(r"^sum +4 ", summed.stdout, re.MULTILINE)


def test_a_typo_is_answered_before_anything_is_planned(command, small: list[str]) -> None:
    done = command("train.py", "--plan", *small, "trainer.devises=8")
    assert done.returncode == 2 and "trainer.devices" in done.stderr and "Planning" not in done.stderr


PAGE = PROJECT / "docs" / "scaling.md"
SHOWN = re.findall(r"```bash\n(python train.py --plan .*?)\n```\n\n```\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "block"), SHOWN)
def test_the_page_shows_what_the_command_prints(command, corpus: Path, tmp_path: Path, line: str, block: str) -> None:
    """But for the data, which are another interpreter's standard library, and what is counted in them."""
    words = [*shlex.split(line)[2:], f"data.prepared={corpus.parent / 'prepared'}"]
    done = command("train.py", *words, f"run.root={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    depends = ("data ", "held out ", "windows ", "epochs ")
    stable = [row for row in block.splitlines()[2:] if not row.startswith(depends)]
    assert stable and [row for row in stable if row not in done.stdout.splitlines()] == []


def test_the_page_shows_what_it_speaks_of() -> None:
    assert len(SHOWN) >= 4
