import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PROJECT
from harness.config import schema
from harness.config.check import check
from harness.config.compose import CONF, compose
from harness.config.help import help_page
from harness.config.identity import default_name, difference
from harness.config.secrets import hidden_in_report, masked
from harness.errors import UserError

MISTAKES = {
    "modle=14m": "Did you mean model?",
    "model=14n": "Did you mean 14m?",
    "optimizer.lrr=1": "Did you mean optimizer.lr?",
    "lr=1": "Did you mean optimizer.lr?",
    "trainer.max_step=3": "Did you mean trainer.max_steps?",
    "+experiment=typo": "The choices in conf/experiment/ are",
    "+debug=cpuu": "Did you mean cpu?",
    "+seed=1": "without the +",
    "optimizer.lr=abc": "optimizer.lr=abc is not a number",
    "seed=one": "seed=one is not a whole number",
    "data.batch_size=0": "the least is 1",
    "data.val_fraction=2": "the most is 0.5",
    "resume=yes": "none of auto, never",
    "model.compile=maybe": "none of auto or true or false",
    "model.config.vocab_size=100": "the least is 257",
    "trainer.max_steps=-1": "never end",
    "trainer.gradient_clip_val=1": "use callbacks.nan_guard.max_grad_norm",
    "a={b": "Cannot read the override",
    "run.name=${nowhere}": "nowhere",
    # the nearest name, wherever the key goes
    "model.config.num_layer=3": "Did you mean model.config.num_hidden_layers?",
    "+model.config.num_layer=3": "Did you mean model.config.num_hidden_layers?",
    "callbacks.nan_gard.patience=3": "Did you mean callbacks.nan_guard?",
    "callbacks.nan_guard.patiense=3": "Did you mean callbacks.nan_guard.patience?",
    "logger.tensorboard.save_dirr=x": "Did you mean logger.tensorboard.save_dir?",
    "scheduler.warmup_step=3": "Did you mean scheduler.warmup_steps?",
    "scheduler._target_=lm.optim.schedules.warmup_cosin": "Did you mean warmup_cosine?",
    "optimizer._target_=torch.optim.AdanW": "Did you mean AdamW?",
    "optimizer._target_=torch.optim.SGD": "torch.optim.SGD takes no betas. Leave it out with ~optimizer.betas.",
    "model.config._target_=transformers.LamaConfig": "Did you mean LlamaConfig?",
    "model.config._target_=transformers.ViTConfig": "not the config of a causal language model",
    "optimizer.learning_rate=1": "Did you mean optimizer.lr?",
    "trainer.precision=bf16-mixd": "Did you mean bf16-mixed?",
    "trainer.precision=fp16": "Did you mean 16-mixed?",
    "trainer.strategy=fspd": "Did you mean fsdp?",
    "trainer.accelerator=gpuu": "Did you mean gpu?",
    "sweep=optima": "Did you mean optuna?",
    "callbacks.samples=5": "callbacks.samples=5 is not a mapping",
    "callbacks.x={y:3}": "callbacks.x has no _target_",
    "+callbacks.x={_target_:hooks.Slow}": "callbacks.x.seconds is missing",
    "model=null": "The choices in conf/model/ are",
    "~model": "model is missing",
    "model=base": "model.peak_lr is missing",
    # impossible values
    "callbacks.nan_guard.patience=-3": "the least is 1",
    "callbacks.nan_guard.patience=0": "callbacks.nan_guard.patience=0 is too small: the least is 1",
    "callbacks.nan_guard.patience=null": "is not a whole number",
    "callbacks.nan_guard.sigmas=0": "must be above 0",
    "callbacks.nan_guard.skip_above=adaptiv": "Did you mean adaptive?",
    "callbacks.nan_guard.check_every_n_steps=0": "the least is 1",
    "callbacks.checkpoint.every_n_steps=0": "the least is 1",
    "callbacks.checkpoint.every_minutes=0": "must be above 0",
    "callbacks.checkpoint.keep_last=0": "the least is 1",
    "callbacks.checkpoint.max_gb=0": "must be above 0",
    "checkpoint.every_n_steps=0": "the least is 1",
    "checkpoint.every_minutes=0": "must be above 0",
    "checkpoint.keep_last=0": "the least is 1",
    "checkpoint.keep_last=null": "is not a whole number",
    "checkpoint.keep_best=null": "is not a whole number",
    "checkpoint.max_gb=0": "must be above 0",
    "+callbacks.ema={_target_:harness.callbacks.ema.Ema,every_n_steps:0}": "the least is 1",
    "+callbacks.ema={_target_:harness.callbacks.ema.Ema,decay:1.5}": "the most is 1",
    "callbacks.samples.temperature=hot": "is not a number",
    "trainer.gradient_clip_algorithm=norm": "use callbacks.nan_guard",
    "trainer.use_distributed_sampler=true": "order of the data",
    "trainer.enable_checkpointing=false": "callbacks.checkpoint=null",
    "trainer.check_val_every_n_epoch=1": "add trainer.val_check_interval=1.0",
    "trainer.val_check_interval=0.5": "add trainer.check_val_every_n_epoch=1",
    "trainer.limit_val_batches=1.5": "more than all",
    "trainer.devices=999": "is too large",
    "trainer.devices=0": "no device at all",
    "trainer.devices=-2": "trainer.devices=-2 is",
    "trainer.limit_train_batches=0": "trains nothing",
    "trainer.max_steps=0": "trains nothing",
    "model.config.hidden_size=0": "the least is 1",
    "model.config.hidden_size=100": "not divisible by model.config.num_attention_heads=8",
    "model.config.num_hidden_layers=-1": "the least is 1",
    "model.config.max_position_embeddings=1": "the least is 2",
    "optimizer.betas=[0.9]": "is not a list of 2",
    "seed=1180591620717411303424": "the most is 4294967295",
    "env=5": "env=5 is not a mapping",
    "resume_from=nowhere": "nothing at resume_from=nowhere",
    "run.name=.": "not the name of a folder",
    "run.name=": "not the name of a folder",
    "run.name=../x": "not the name of a folder",
    "run.name=/tmp/x": "not the name of a folder",
    f"run.name={'x' * 300}": "at most 200 characters",
}


@pytest.mark.parametrize(("override", "sentence"), MISTAKES.items())
def test_a_mistake_is_answered_by_a_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=".*") as caught:
        check(compose([override]))
    assert sentence in str(caught.value)
    assert caught.value.code == 2


def test_gpt2s_own_names_are_said() -> None:
    with pytest.raises(UserError, match=r"Type model\.config\.n_positions=512\."):
        check(compose(["model=124m", "model.config.max_position_embeddings=512"]))
    check(compose(["model=124m", "model.config.n_positions=512"]))


@pytest.mark.parametrize(
    "override",
    [
        "data.path=café.txt",
        "data.path=it's (1).txt",
        "data.path=a b.txt",
        "model.config.rope_theta=5000",
        "model.config.attention_dropout=0.1",
        "optimizer.amsgrad=true",
        "callbacks.nan_guard.skip_above=adaptive",
        "callbacks.nan_guard.max_grad_norm=null",
        "callbacks.nan_guard.max_grad_norm=0",
        "callbacks.nan_guard.skip_above=0",
        "callbacks.nan_guard.skip_above=null",
        "callbacks.nan_guard.forgive=0",
        "callbacks.nan_guard.good_after=0",
        "callbacks.nan_guard.max_rollbacks=0",
        "callbacks.nan_guard.max_bundles=0",
        "callbacks.nan_guard.check_every_n_steps=null",
        "checkpoint.every_n_steps=null",
        "checkpoint.every_minutes=null",
        "checkpoint.keep_best=0",
        "checkpoint.max_gb=null",
        "callbacks.samples=null",
        "trainer.max_time=00:01:00:00",
        "trainer.profiler=simple",
        "trainer.devices=auto",
        "trainer.devices=[0,1]",
        "run.name=5",
        "+mine.key=1",
    ],
)
def test_what_a_target_takes_needs_no_plus_and_no_quotes(override: str) -> None:
    check(compose([override]))


def test_a_plus_before_a_group_that_the_files_have_is_no_second_choice() -> None:
    cfg = compose(["+experiment=example", "+model=tiny", "+debug=cpu"])
    assert cfg.model.name == "tiny"


def test_an_accent_reaches_the_source() -> None:
    assert compose(["data=text", "data.path=café.txt"]).data.source.path == "café.txt"


def test_all_complaints_come_at_once() -> None:
    with pytest.raises(UserError) as caught:
        check(compose(["data.batch_size=0", "optimizer.lr=abc", "seed=-1"]))
    assert {line.partition("=")[0] for line in str(caught.value).splitlines()} == {
        "data.batch_size",
        "optimizer.lr",
        "seed",
    }


FILES = [file for file in CONF.glob("*/*.yaml") if file.parent.name != "plumbing"]


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_file_composes_and_fits_the_schema(file: Path) -> None:
    if file.stem == "base":
        pytest.skip("a part of the others, no choice")
    plus = "+" if file.parent.name == "debug" else ""
    check(compose([f"{plus}{file.parent.name}={file.stem}"]))


def test_the_trainer_takes_lightnings_arguments_under_their_own_names() -> None:
    from lightning.pytorch import Trainer

    ours = set(schema.Trainer.model_fields) - {"mps_fix"}
    assert ours == set(inspect.signature(Trainer).parameters)
    assert compose(["trainer.limit_val_batches=2"]).trainer.limit_val_batches == 2


def test_the_name_is_the_experiment() -> None:
    name = default_name(compose())
    same = [
        "trainer.max_steps=9",
        "trainer.accelerator=cpu",
        "data.num_workers=2",
        "run.root=elsewhere",
        "logger=none",
        "checkpoint.keep_last=9",
        "trainer.val_check_interval=7",
        "model.compile=false",
        "resume=never",
        "trainer.log_every_n_steps=1",
    ]
    other = [
        "optimizer.lr=1e-4",
        "seed=1",
        "model.config.hidden_size=256",
        "data.batch_size=4",
        "scheduler.warmup_steps=1",
        "trainer.accumulate_grad_batches=2",
        "trainer.precision=32-true",
        "+mine.key=1",
        "data.limit=0.5",
    ]
    assert name.startswith("14m-stdlib-")
    assert {default_name(compose([override])) for override in same} == {name}
    names = [default_name(compose([override])) for override in other]
    assert len({name, *names}) == len(other) + 1


def test_the_difference_of_two_experiments_names_the_key() -> None:
    assert difference(compose(), compose(["optimizer.lr=1e-4", "trainer.max_steps=3"])) == [
        "optimizer.lr: 0.0015 -> 0.0001"
    ]


def test_help_names_every_choice_and_key() -> None:
    page = help_page()
    for file in FILES:
        assert file.stem == "base" or file.stem in page
    for name in ("seed", "run.name", "checkpoint.every_minutes", "data.path", "optimizer.lr"):
        assert f"  {name} " in page


def test_secrets_are_masked_in_what_is_written() -> None:
    assert masked({"wandb": {"api_key": "abc", "name": "x"}, "tokens": 5}) == {
        "wandb": {"api_key": "***", "name": "x"},
        "tokens": 5,
    }
    assert hidden_in_report("+logger.wandb.api_key=abc") == "+logger.wandb.api_key=***"
    assert hidden_in_report("optimizer.lr=1") == "optimizer.lr=1"


HEAVY = ["torch", "lightning", "transformers", "datasets", "numpy", "pandas", "tokenizers"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--cfg", "job"],
        ["--info", "defaults"],
        ["modle=14m"],
        ["optimizer.lr=abc"],
        ["data=text", "data.path=nowhere"],
    ],
)
def test_an_answer_needs_no_heavy_import(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import atexit, runpy, sys\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        f"atexit.register(lambda: print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules]))\n"
        f"runpy.run_path({str(PROJECT / 'train.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr
    assert done.returncode == (0 if arguments[0].startswith("-") else 2)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
