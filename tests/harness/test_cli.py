"""The frame of the commands: what is printed before and after a sentence, habits of other tools, where paths begin."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf
from places import PROJECT
from processes import Process

import harness.config.compose
import harness.config.identity
import harness.config.saved
from harness.config.check import check
from harness.config.compose import compose, compose_all, hydra_errors_as_user_errors, normalize_overrides
from harness.config.identity import free_changes, other_experiment
from harness.config.jobs import Multirun, fixed, multirun, sweep, sweep_name
from harness.config.names import choices
from harness.errors import UserError
from harness.hydra_main import arguments_of_hydra, prepare, prepare_multirun

Command = Callable[..., "subprocess.CompletedProcess[str]"]

HABITS = {
    "--max_steps 1": "Type trainer.max_steps=1",
    "--resume_from=x": "Type resume_from=x",
    "--foo": "There is no flag --foo.",
    "gradient_accumulation_steps=4": "Did you mean trainer.accumulate_grad_batches=4?",
    "ctx_len=256": "Did you mean model.config.max_position_embeddings=256?",
    "use_amp=false": "Did you mean trainer.precision=32-true?",
    "learning_rate=1e-3": "Did you mean optimizer.lr=1e-3?",
}


class Refuses(Callback):
    """A target that raises what a user's own class might."""

    def __init__(self, how: str) -> None:
        if how == "sentence":
            raise UserError("The moon is not full.", cure="Wait a week.")
        raise ValueError("a moon of\ncheese")


def build(how: str) -> None:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with hydra_errors_as_user_errors():
        instantiate(OmegaConf.create({"moon": {"_target_": "test_cli.Refuses", "how": how}}))


def test_a_sentence_from_inside_a_target_comes_through_as_it_is() -> None:
    with pytest.raises(UserError, match=r"^The moon is not full\. Wait a week\.$"):
        build("sentence")


def test_an_error_inside_a_target_has_its_type_its_message_and_its_key() -> None:
    with pytest.raises(UserError, match=r"^moon: test_cli\.Refuses raised ValueError: a moon of cheese$"):
        build("error")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "says"), HABITS.items())
def test_habits_of_other_tools_are_answered_with_our_key(command: Command, words: str, says: str) -> None:
    done = command("train.py", *words.split())
    assert done.returncode == 2
    assert says in done.stderr
    assert "usage:" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+callbacks.bad={_target_:test_cli.Refuses,how:sentence}", "The moon is not full. Wait a week."),
        ("+callbacks.bad={_target_:test_cli.Refuses,how:error}", "callbacks.bad: test_cli.Refuses raised ValueError"),
    ],
)
def test_a_late_sentence_stands_alone(command: Command, small: list[str], override: str, says: str) -> None:
    done = command("train.py", *small, override)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Error executing job" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_after_ctrl_c_only_the_sentence_is_printed(small: list[str], tmp_path: Path) -> None:
    slow = "+callbacks.slow={_target_:hooks.Slow,seconds:0.5}"
    process = Process(tmp_path, [*small, "run.name=stopped", "trainer.max_steps=500", slow])
    process.until(lambda: "30,240 parameters" in process.output)
    process.until(lambda: bool(list((tmp_path / "runs/stopped").glob("debug_log/events.jsonl"))))
    process.send(2)
    assert process.ended() == 130
    assert "Stopped by" in process.output.splitlines()[-1]
    assert "Error executing job" not in process.output and "Traceback" not in process.output


@pytest.mark.slow
@pytest.mark.parametrize("override", ["trainer.devices=[0,1]", "trainer=gpu"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_devices_that_are_not_here_are_refused_before_the_folder_is_made(
    command: Command, small: list[str], tmp_path: Path, override: str
) -> None:
    done = command("train.py", *small, override)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("begin", [prepare, prepare_multirun])
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        pytest.param(
            "trainer.accelerator=cuda", "This machine has no cuda device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
        ("trainer.devices=[0,1]", r"trainer\.devices=\[0, 1\] lists GPUs, and this run is on the CPU"),
        ("trainer.devices=-1", "Type trainer.devices=auto"),
        ("logger=wandb", "logger=wandb knows no account on this machine"),
        ("+callbacks.x={_target_:torch.nn.Linear,in_features:1,out_features:1}", r"callbacks\.x is no callback .*Lin"),
        ("+logger.x={_target_:collections.OrderedDict}", r"logger\.x is no logger of Lightning but OrderedDict"),
        ("+trainer.strategy=fsdp", "checkpoints of its own kind, .*use trainer=fsdp"),
        ("+callbacks.x={_target_:lightning.pytorch.callbacks.Timer,duration:foo}", "is not a valid duration"),
        ("+callbacks.x={_target_:lightning.pytorch.callbacks.LearningRateFinder}", "Try some: python train.py -m"),
        ("+logger.x={_target_:lightning.pytorch.loggers.CometLogger}", "Type: pip install comet-ml"),
        ("+trainer.max_time={weks:1}", "'weks' is an invalid keyword"),
    ],
)  # fmt: skip
def test_what_torch_and_lightning_refuse_is_said_before_anything_is_made(
    small: list[str], tmp_path: Path, monkeypatch, begin: Callable[..., Any], override: str, sentence: str
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seeds = ["seed=0,1"] if begin is prepare_multirun else []
    with pytest.raises(UserError, match=sentence), hydra_errors_as_user_errors():
        begin(list(normalize_overrides([*small, *seeds, override])))
    assert not [*tmp_path.iterdir()]


def test_a_callback_whose_module_cannot_be_imported_is_a_sentence(small, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken.py").write_text("import nowhere\nclass Mine: ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"callbacks\.x cannot be built: ImportError: .*No module named 'nowhere'"):
        prepare(list(normalize_overrides([*small, "+callbacks.x={_target_:broken.Mine}"])))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc takes no folders, even from root")
def test_a_folder_that_cannot_be_made_is_a_sentence(command: Command, small: list[str]) -> None:
    done = command("train.py", *small, "run.root=/proc/runs")
    assert done.returncode == 2, done.stderr
    assert "Try run.root=FOLDER." in done.stderr and "Traceback" not in done.stderr


def test_a_target_that_is_no_callback_is_named(train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"callbacks\.here is no callback of Lightning but str\."):
        train("+callbacks.here={_target_:os.getcwd}")


@pytest.mark.parametrize("override", ["optimizer.betas=[2,3]", "scheduler._target_=torch.nn.Linear"])
def test_what_an_optimizer_or_a_schedule_refuses_is_a_sentence(train: Callable[..., Path], override: str) -> None:
    with pytest.raises(UserError, match=r"^optimizer or scheduler cannot be built: (ValueError|TypeError): "):
        train(override)


def test_what_lightning_alone_refuses_is_a_sentence(train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="Lightning cannot train so: .*limit_train_batches"):
        train("trainer.limit_train_batches=0.0001")


@pytest.mark.parametrize(
    "words", [["-m", "seed=1,2", "model=tiny"], ["model=tiny", "-m", "seed=1,2"], ["seed=1,2", "-m"]]
)
def test_flags_may_stand_between_the_words(words: list[str]) -> None:
    args = arguments_of_hydra(words)
    assert args.multirun and args.overrides == [word for word in words if "=" in word]


@pytest.mark.slow
def test_commands_work_from_devtools(command: Command) -> None:
    done = command("train.py", "data=text", "data.path=README.md", "--cfg", "job", cwd=PROJECT / "devtools")
    assert done.returncode == 0, done.stderr
    assert "Paths are relative to the project" in done.stderr


@pytest.mark.parametrize("name", ["report", "replay", "verify-resume"])
def test_help_of_a_command_imports_nothing_heavy(name: str, tmp_path: Path) -> None:
    code = (
        "import atexit, runpy, sys\n"
        f"sys.argv = ['lm', {name!r}, '--help']\n"
        "heavy = ['torch', 'lightning', 'transformers', 'datasets', 'numpy', 'pandas', 'plotly', 'tokenizers']\n"
        "atexit.register(lambda: print('HEAVY', [name for name in heavy if name in sys.modules]))\n"
        "runpy.run_module('lm', run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


def jobs(*overrides: str) -> Multirun:
    words = list(normalize_overrides(["model=tiny", *overrides]))
    alone = sweep(words)
    return multirun(words, compose(fixed(words)), alone, [compose(job) for job in alone])


def named(*overrides: str) -> str:
    words = list(normalize_overrides(["model=tiny", *overrides]))
    return sweep_name(words, compose(fixed(words)))


def test_the_folder_of_a_sweep_says_what_is_swept_over_which_experiment() -> None:
    name = named("optimizer.lr=1e-3,3e-4", "seed=1,2")
    assert name.startswith("sweep-optimizer.lr-seed-")
    assert named("seed=1,2", "optimizer.lr=1e-3,3e-4") == name
    assert named("seed=1,2", "optimizer.lr=1e-3,3e-4,1e-4") == name
    assert named("seed=1,2", "trainer.max_steps=900", "optimizer.lr=1e-3,3e-4", "logger=none") == name
    assert named("seed=1,2", "optimizer.lr=1e-3,3e-4", "data.batch_size=4") != name
    assert named("seed=1,2") != name


def test_long_names_of_sweeps_differ_where_the_sweeps_do() -> None:
    keys = [f"+mine.key_of_some_length_{number}=1,2" for number in range(9)]
    one, other = named(*keys), named(*keys, "seed=1,2")
    assert one != other and max(len(one), len(other)) <= 100


def test_an_added_value_leaves_the_other_jobs_where_they_are() -> None:
    def names(values: str) -> list[str]:
        return [job.name for job in jobs(f"optimizer.lr={values}").jobs]

    assert names("1e-3,1e-4,3e-4")[::2] == names("1e-3,3e-4")


def test_jobs_are_composed_as_each_alone() -> None:
    words = ["seed=0,1", "model=tiny,14m", "++optimizer.lr=1e-3,${model.peak_lr}", "~callbacks.samples",
             "+mine.key=[1,2],3",
             "+debug=[default,cpu]", "++callbacks.x={_target_:hooks.Slow,seconds:1}"]  # fmt: skip
    found = sweep(list(normalize_overrides(words)))
    alone = [OmegaConf.to_container(compose(job)) for job in found]
    assert [OmegaConf.to_container(cfg) for cfg in compose_all(found)] == alone and len(found) == 16


@pytest.mark.parametrize("word", ["optimizer.lrr=1", "sead=1", "+seed=1", "modle=tiny"])
def test_a_typo_in_a_sweep_is_answered_as_in_a_run(word: str) -> None:
    with pytest.raises(UserError) as alone:
        check(compose([word]))
    with pytest.raises(UserError) as swept:
        check(compose_all([["seed=0"], [word]])[1])
    assert str(swept.value) == str(alone.value)


@pytest.mark.parametrize("override", ["hydra/launcher=basic", "optimizer.lr=interval(0,1)"])
def test_what_a_sweep_does_not_do_is_a_sentence(override: str) -> None:
    with pytest.raises(UserError, match=re.escape(override)):
        sweep([override])


@pytest.mark.parametrize(
    ("override", "apart"),
    [
        ("trainer.max_steps=2,4", ["trainer.max_steps"]),
        ("model.gradient_checkpointing=false,true", ["model.gradient_checkpointing"]),
        ("trainer=cpu,auto", ["trainer.accelerator"]),
        ("optimizer.lr=1e-3,3e-4", []),
    ],
)
def test_jobs_of_one_experiment_get_folders_of_their_own(override: str, apart: list[str]) -> None:
    found = jobs(override)
    assert list(found.apart) == apart
    assert len({compose(job.words).run.dir for job in found.jobs}) == 2


def test_jobs_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(UserError, match=r"Jobs 0 and 1 .* share the folder x\. Leave run\.name out"):
        prepare_multirun(list(normalize_overrides(["model=tiny", "optimizer.lr=1e-3,3e-4", "run.name=x"])))


def test_resume_never_is_a_fresh_folder_of_a_multirun(tmp_path: Path) -> None:
    words = ("optimizer.lr=1e-3,3e-4", "resume=never", f"run.root={tmp_path}")
    folder = jobs(*words).folder
    folder.mkdir()
    again = jobs(*words)
    assert again.folder == tmp_path / f"{folder.name}-2"
    assert {compose(job.words).resume for job in again.jobs} == {"auto"}


def test_a_sweep_hashes_and_reads_little_for_each_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: (calls.update([name]), real(*given))[1])

    counted(harness.config.identity, "identity")
    counted(harness.config.compose, "hydra_compose")
    counted(harness.config.saved, "parse")
    prepared(tmp_path, "seed=range(0,4)")
    few = Counter(calls)
    calls.clear()
    prepared(tmp_path, "seed=range(0,8)")
    assert (calls["identity"] - few["identity"]) / 4 <= 2
    assert calls["hydra_compose"] == few["hydra_compose"] == 1 and calls["parse"] == 0


def prepared(root: Path, *overrides: str) -> Multirun:
    return prepare_multirun(list(normalize_overrides([f"run.root={root}", *overrides])))


@pytest.mark.parametrize("name", [name for name in choices("sweep") if name not in ("grid", "optuna")])
def test_a_file_of_sweeps_lists_several_runs(name: str, tmp_path: Path) -> None:
    found = prepared(tmp_path, f"sweep={name}")
    assert len({job.name for job in found.jobs}) == len(found.jobs) >= 4
    assert compose(found.jobs[-1].words).sweep.over == {}


def test_what_is_typed_is_added_to_what_a_file_of_sweeps_lists(tmp_path: Path) -> None:
    assert len(prepared(tmp_path, "sweep=seeds", "optimizer.lr=1e-3,1e-4").jobs) == 10
    few = prepared(tmp_path, "sweep=seeds", "seed=7,8")
    assert [job.swept for job in few.jobs] == [{"seed": "7"}, {"seed": "8"}]
    assert few.folder == prepared(tmp_path, "seed=1,2").folder


SEARCH = ("sweep=optuna", "optimizer.lr=tag(log, interval(1e-4,1e-2))", "model=choice(tiny,14m)")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sweep=seed"], "There is no sweep=seed. Did you mean seeds?"),
        (["sweep=seeds,optuna"], "A multirun is one: sweep=seeds."),
        (["optimizer.lr=interval(0,1)"], "let a search choose: add sweep=optuna"),
        (["sweep=optuna"], "The search has nothing to choose from."),
        ([*SEARCH, "sweep.n_trial=3"], "Did you mean sweep.n_trials?"),
        ([*SEARCH, "sweep.sampler.seeed=3"], "Did you mean sweep.sampler.seed?"),
        ([*SEARCH, "model=choice(tiny,15m)"], "There is no model=15m. Did you mean 14m?"),
        ([*SEARCH, "optimizer.weight_decay=interval(-1,1)"], "optimizer.weight_decay=-1.0 is too small"),
        ([*SEARCH, "seed=interval(5,1)"], "has no number to choose"),
        (["sweep=seeds", "sweep.over=5"], "sweep.over=5 is not a mapping"),
    ],
)
def test_a_mistake_in_a_sweep_is_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        prepare_multirun(list(normalize_overrides(words)))


def test_a_search_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("Type pip install -e '.[optuna]'")):
        prepare_multirun(list(normalize_overrides(SEARCH)))


def test_a_sweep_without_its_flag_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"Type python train\.py -m sweep=seeds"):
        prepare(["sweep=seeds"])


def test_what_our_advice_changes_is_the_same_run_and_is_said() -> None:
    old = compose(["model=tiny"])
    new = compose(["model=tiny", "data.batch_size=1", "trainer.accumulate_grad_batches=2", "trainer.precision=32-true"])
    assert other_experiment(old, new) == []
    assert free_changes(old, new) == [
        "data.batch_size: 2 -> 1",
        "trainer.accumulate_grad_batches: 1 -> 2",
        "trainer.precision: auto -> 32-true",
    ]
    assert other_experiment(old, compose(["model=tiny", "optimizer.lr=1"])) == ["optimizer.lr: 0.0015 -> 1"]


def test_the_value_of_a_flag_that_there_is_not_is_no_flag() -> None:
    with pytest.raises(UserError, match=r"^There is no flag --max_steps\. Type trainer\.max_steps=1\.?$"):
        arguments_of_hydra(["model=tiny", "seed=1", "--max_steps", "1"])


def test_a_kernel_that_this_device_lacks_is_a_sentence(train, monkeypatch) -> None:
    def lacks(*_: object) -> None:
        raise NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device.")

    monkeypatch.setattr("lm.module.LmModule.losses", lacks)
    with pytest.raises(UserError, match="This device cannot compute that: The operator .*model.attention=sdpa"):
        train()
