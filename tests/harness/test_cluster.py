"""What a sweep tells SLURM and Ray, and says where they are not here. With a real SLURM: fault/test_slurm.py."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from exactness import assert_same
from places import PROJECT
from processes import Process

from harness.config.jobs import Job
from harness.errors import UserError
from harness.launch import squeue
from harness.launch.launcher import launcher
from harness.launch.status import parse
from harness.run import folder as run_folder
from harness.run.requeue import job_id
from harness.run.signals import StopRequest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of launcher=slurm, as a job sees it that has no sbatch."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    return importlib.import_module("harness.launch.slurm")


@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_an_absent_library_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = {"submitit": "slurm"}.get(name, name)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"harness.launch.{module}", raising=False)
    with pytest.raises(UserError, match=f"launcher={module} needs {name}. Type: pip install {name} -c constraints.txt"):
        launcher(module)


def test_without_slurm_nothing_is_written(command: Command, small: list[str], tmp_path: Path) -> None:
    done = command("train.py", "-m", *small, "seed=0,1", "launcher=slurm", PATH=str(Path(sys.executable).parent))
    assert done.returncode == 2 and "there is no sbatch on PATH" in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


def test_one_run_alone_is_no_multirun(command: Command, small: list[str], tmp_path: Path) -> None:
    done = command("train.py", *small, "launcher=slurm")
    assert done.returncode == 2 and "launcher=slurm is for the jobs of a multirun. Add -m" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_what_slurm_lists_is_found_by_our_name_and_index() -> None:
    seen = squeue.parse("sweep-x|0|12_0|RUNNING\nsweep-x|1|12_1|PENDING\na|b|N/A|13|COMPLETED\n\n")
    assert seen["sweep-x[1]"] == ("12_1", "PENDING") and not seen["sweep-x[1]"].over
    assert seen["a|b[0]"].over
    assert squeue.submission("sweep-x[1]") == "sweep-x"


def options(slurm: Any, tmp_path: Path, *, job: dict[str, Any], **settings: Any) -> dict[str, Any]:
    given = {"accelerator": "auto", "devices": 1} | job
    one = Job("x", ("seed=1",), {"seed": "1"}, "a", **given)
    defaults = {"name": "slurm", "jobs": 4, "signal_seconds": 120}
    sweep = SimpleNamespace(folder=tmp_path, launcher=defaults | settings)
    return slurm.Launcher("lm.fit:train", sweep, None)._options("name", one)


@pytest.mark.parametrize(
    ("job", "settings", "ranks", "gpus"),
    [
        ({"devices": 1}, {}, 1, 1),
        ({"devices": 4}, {}, 4, 4),
        ({"devices": "auto"}, {"gpus_per_node": 8}, 8, 8),
        ({"devices": 2, "accelerator": "cpu"}, {"gpus_per_node": 8}, 2, None),
        ({"devices": 1}, {"gpus_per_node": 0}, 1, None),
    ],
)
def test_each_rank_is_a_task_with_a_gpu(
    slurm: Any, tmp_path: Path, job: dict[str, Any], settings: Any, ranks: int, gpus: int | None
) -> None:
    found = options(slurm, tmp_path, job=job, **settings)
    assert (found["ntasks_per_node"], found.get("gpus_per_node")) == (ranks, gpus)


def test_any_option_of_sbatch_may_be_given(slurm: Any, tmp_path: Path) -> None:
    settings = {"partition": "big", "account": None, "time": "1-0", "sbatch": {"constraint": "a100"}}
    found = options(slurm, tmp_path, job={"nodes": 2}, **settings)
    assert found["partition"] == "big" and "account" not in found and found["nodes"] == 2
    assert found["additional_parameters"] == {"time": "1-0", "constraint": "a100"}


def test_a_secret_is_not_handed_on_in_a_file(slurm: Any) -> None:
    slurm.refuse_secrets(["seed=1", "model=tiny", "run.root=/tmp/x"])
    with pytest.raises(UserError, match="has a secret in it") as raised:
        slurm.refuse_secrets(["+logger.wandb.api_key=0123456789abcdef"])
    assert "0123456789abcdef" not in str(raised.value)


def test_a_job_of_an_array_is_requeued_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert job_id() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id() == "12_3"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_the_wish_to_make_room_may_come_twice() -> None:
    requests = StopRequest()
    requests.training = True
    requests.asked(signal.SIGUSR2)
    requests.asked(signal.SIGUSR2)
    assert (requests.stop, requests.code) == ("SIGUSR2", 128 + signal.SIGUSR2)


@pytest.mark.parametrize("launched", ["TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"])
def test_what_launchers_hand_on_is_no_second_wish(monkeypatch: pytest.MonkeyPatch, launched: str) -> None:
    monkeypatch.setenv(launched, "1")
    requests = StopRequest()
    requests.training = True
    requests.asked(signal.SIGTERM)
    requests.asked(signal.SIGTERM)
    assert requests.stop == "SIGTERM"


def test_the_script_for_several_nodes_is_bash_without_jinja() -> None:
    script = PROJECT / "devtools" / "slurm" / "train.sh"
    if sys.platform != "win32":
        subprocess.run(["bash", "-n", str(script)], check=True)
    assert not any(mark in script.read_text(encoding="utf-8") for mark in ("{{", "{%", "{#"))


RAY = ("trainer.max_steps=10", "checkpoint.every_n_steps=1", "callbacks.samples=null", "logger=csv",
       "trainer.log_every_n_steps=1", "+callbacks.slow={_target_:hooks.Slow,seconds:1}", "seed=0,1,2")  # fmt: skip
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")


@needs_ray
@pytest.mark.slow
def test_jobs_on_ray_are_stopped_killed_and_go_on_as_if_nothing_had_been(small: list[str], tmp_path: Path) -> None:
    words = ["-m", *small, *RAY, "launcher=ray", "launcher.jobs=2"]
    home = tmp_path / "home"
    home.mkdir()

    def statuses() -> dict[str, Any]:
        found = (parse(path.read_text(encoding="utf-8")) for path in tmp_path.glob("runs/*/status/*.json"))
        return {status.overrides["seed"]: status for status in found}

    def run(seed: str) -> Path:
        [folder] = (tmp_path / "runs").iterdir()
        return folder / statuses()[seed].name

    def is_training(seed: str) -> bool:
        return seed in statuses() and (run(seed) / "checkpoints" / "step-00000002").exists()

    first = Process(tmp_path / "w", words, HOME=str(home))
    first.until(lambda: is_training("0"))
    first.send(signal.SIGINT)
    assert first.ended() == 130, first.output
    assert [statuses()[seed].state for seed in "01"] == ["stopped", "stopped"] and "2" not in statuses()

    second = Process(tmp_path / "w", words, HOME=str(home))
    second.until(lambda: is_training("2"))
    os.kill(run_folder.read(run("2"))["attempts"][-1]["pid"], signal.SIGKILL)
    assert second.ended() == 1, second.output
    assert [statuses()[seed].state for seed in "012"] == ["finished", "finished", "failed"]
    assert statuses()["2"].reason == "Its process ended with SIGKILL."

    third = Process(tmp_path / "w", words, HOME=str(home))
    assert third.ended() == 0, third.output
    alone = Process(tmp_path / "w", ["-m", *small, *RAY, f"run.root={tmp_path / 'alone'}"])
    assert alone.ended() == 0, alone.output
    for seed in "012":
        [reference] = tmp_path.glob(f"alone/*/{run(seed).name}")
        assert_same(run(seed), reference)
    assert not list(home.rglob("auth_token"))
