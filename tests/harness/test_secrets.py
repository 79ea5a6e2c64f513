"""Nothing that a run, a crash, a sweep, a report or a NaN bundle writes or prints holds a password."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from places import HARNESS_TESTS, PATIENCE, PROJECT

from harness.config import saved, secrets
from harness.config.compose import compose
from harness.config.identity import difference, digest
from harness.config.secrets import hidden, hidden_in_report, learn, masked, names_secret

SECRET = [
    "api_key",
    "apiKey",
    "APIKEY",
    "X_TOKEN",
    "token",
    "hf_token",
    "hftoken",
    "AWS_SECRET_ACCESS_KEY",
    "accessToken",
    "password",
    "db_passwd",
    "PASSWORDS",
    "client_secret",
    "credentials",
    "my-key",
    "WANDB_API_KEY",
    "logger.wandb.key",
    "private_key",
    "tokens",
    "passphrase",
    "AWS_ACCESS_KEY_ID",
    "secret_value",
]
NOT_SECRET = [
    "tokenizer",
    "max_tokens",
    "show_tokens",
    "monkey",
    "keyboard",
    "num_key_value_heads",
    "eos_token",
    "pad_token_id",
    "tokens_per_second",
    "bos_token_id",
    "TOKENIZERS_PARALLELISM",
    "HF_TOKEN_PATH",
    "image_token_index",
    "turkey",
    "key_size",
    "tokenized",
    "keys_to_ignore",
    "n_tokens",
    "GOOGLE_APPLICATION_CREDENTIALS_FILE",
    "lr",
    "max_position_embeddings",
    "keep_last",
    "mask_token",
    "num_tokens",
    "token_type_ids",
    "per_token",
]


@pytest.mark.parametrize("name", SECRET)
def test_a_name_that_says_secret_is_one(name: str) -> None:
    assert names_secret(name)
    assert masked({name: "s3cr3t-value"}) == {name: "***"}


@pytest.mark.parametrize("name", NOT_SECRET)
def test_an_ordinary_name_is_none(name: str) -> None:
    assert masked({name: "an0ther-value"}) == {name: "an0ther-value"}
    assert masked({name: 5}) == {name: 5}


@pytest.mark.parametrize(
    ("node", "clean"),
    [
        ({"password": 12345}, {"password": "***"}),
        ({"text_key": "content", "sort_key": "length"}, {"text_key": "content", "sort_key": "length"}),
        ({"token": "<|end|>", "tokens": 5, "token_": None}, {"token": "<|end|>", "tokens": 5, "token_": None}),
        ({"api_key": "${oc.env:X}", "password": None}, {"api_key": "${oc.env:X}", "password": None}),
        (
            [{"a": ["https://me:hunter2@host/x", "ftp://host:21/x"]}],
            [{"a": ["https://me:***@host/x", "ftp://host:21/x"]}],
        ),
    ],
)
def test_what_is_masked_and_what_stays(node: object, clean: object) -> None:
    assert masked(node) == clean


@pytest.mark.parametrize(
    ("word", "clean"),
    [
        ("+logger.wandb.api_key=abc", "+logger.wandb.api_key=***"),
        ("'+callbacks.x={_target_:a.B,api_key:abc,every:5}'", "'+callbacks.x={_target_:a.B,api_key:***,every:5}'"),
        ("data.path=https://me:pw@host/x", "data.path=https://me:***@host/x"),
        ("+env.X_TOKEN=abc", "+env.X_TOKEN=***"),
        ("callbacks.samples.max_tokens=48", "callbacks.samples.max_tokens=48"),
        ("optimizer.lr=1", "optimizer.lr=1"),
        ("train.tokens: 7197 -> 0", "train.tokens: 7197 -> 0"),
        ("tokens=abc", "tokens=***"),
    ],
)
def test_a_command_line_is_kept_without_them(word: str, clean: str) -> None:
    assert hidden_in_report(word) == clean


def test_a_secret_that_was_seen_is_hidden_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    monkeypatch.setattr(secrets, "_pattern", None)
    learn({"MY_TOKEN": 'a"b\\c+ü/1', "OTHER_KEY": "true", "SOME_KEY": "default", "X_SECRET": "5"})
    assert hidden('x a"b\\c+ü/1 y') == "x *** y"
    assert hidden(r'{"m": "a\"b\\c+ü/1"}') == '{"m": "***"}'
    assert hidden("https://h/?t=a%22b%5Cc%2B%C3%BC%2F1") == "https://h/?t=***"
    assert hidden("true default 5") == "true default 5"
    assert (
        hidden_in_report("login failed for api_key=xyz, Bearer abcdefghij")
        == "login failed for api_key=***, Bearer ***"
    )


def test_the_environment_stays_unresolved_in_what_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "/data/x")
    cfg = OmegaConf.create(
        {
            "a": "${oc.env:PLANTED}",
            "b": "${a}/y",
            "c": "${d}",
            "d": 1,
            "e": ["${b}", {"f": "${oc.env:NOT_SET,2}"}],
            "g": "${oc.env:HARNESS_X,here}",
            "h": {"api_key": "${oc.env:PLANTED}"},
            "i": "${h}",
        }
    )
    text = saved.text(cfg)
    assert "/data/x" not in text and "here" in text
    assert OmegaConf.to_container(saved.parse(text), resolve=True) == OmegaConf.to_container(cfg, resolve=True)
    assert saved.parse(text)._get_node("c")._value() == 1


def test_a_masked_config_is_the_same_experiment(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "4")
    more = [
        "+callbacks.mine={_target_:hooks.Slow,seconds:0,api_key:abc-123}",
        "++data.note=https://me:pw@h/x",
        "data.batch_size=${oc.env:PLANTED}",
    ]
    cfg = compose([*small, *more, "run.name=x"])
    before = saved.parse(saved.text(cfg))
    assert difference(before, cfg) == []
    other = compose([*small, *(word.replace("abc-123", "def-456") for word in more), "run.name=x"])
    assert digest(other) == digest(cfg)
    monkeypatch.delenv("PLANTED")
    assert difference(before, before) == []


PLANTED = {
    "environment": "Env1ronment-Planted-77",
    "dotenv": "D0tenv-Planted-88",
    "command line": "C0mmand-Planted-99",
    "environment block": "Bl0ck-Planted-66",
    "address": "Addr3ss-Planted-55",
    "exception": "Exc3ption-Planted-44",
    "interpolated": "Interp0lated-Planted-33",
    "innocent name": "Env1ronment-Planted-77",
}
PLANTS = (
    "+env.BLOCK_TOKEN=" + PLANTED["environment block"],
    "+callbacks.leak={_target_:planted.Leak,step:3,api_key:"
    + PLANTED["command line"]
    + ",token:${oc.env:PLANTED_TOKEN}}",
    "++callbacks.leak.note=https://me:" + PLANTED["address"] + "@host/x",
    "++callbacks.leak.other=" + PLANTED["innocent name"],
)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["crash", "nan", "sweep"])
def test_no_planted_secret_is_in_any_byte_written_or_printed(small: list[str], tmp_path: Path, ending: str) -> None:
    (tmp_path / ".env").write_text(f"DOTENV_SECRET={PLANTED['dotenv']}\n", encoding="utf-8")
    words = [
        *small,
        *PLANTS,
        "trainer.max_steps=4",
        "trainer.log_every_n_steps=1",
        "checkpoint.every_n_steps=2",
        f"++callbacks.leak.how={ending}",
    ]
    if ending == "nan":
        words.append("+callbacks.fault={_target_:faults.Fault,kind:loss,steps:[2]}")
    words = ["-m", *words, "seed=0,1"] if ending == "sweep" else [*words, "run.name=x"]
    said = run("train.py", words, tmp_path)
    if ending != "sweep":
        said += run("-m", ["lm", "report", "runs/x"], tmp_path)
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"}
    assert any(path.name == {"sweep": "sweep.json"}.get(ending, "report.html") for path in written), said
    assert ending != "nan" or any("nan" in path.parts and path.name == "incident.json" for path in written), said
    assert "refused: ***" in said  # it was said, without them
    for where, secret in PLANTED.items():
        assert secret not in said, (where, said[-3000:])
        assert not [path for path, content in written.items() if secret.encode() in content], where
        assert not [path for path in written if secret in path.as_posix()], where


@pytest.mark.slow
def test_a_run_with_secrets_resumes_generates_and_is_evaluated(small: list[str], tmp_path: Path) -> None:
    words = [*small, *PLANTS, "++callbacks.leak.how=nothing", "run.name=x", "checkpoint.every_n_steps=2"]
    run("train.py", [*words, "trainer.max_steps=2"], tmp_path)
    said = run("train.py", [*words, "trainer.max_steps=4"], tmp_path)
    assert "Going on from runs/x/checkpoints/step-00000002" in said
    config = (tmp_path / "runs" / "x" / "config.yaml").read_text(encoding="utf-8")
    assert "***" in config and "${oc.env:PLANTED_TOKEN}" in config
    assert "perplexity" in run("evaluate.py", ["runs/x"], tmp_path, PLANTED_TOKEN="")
    assert "def" in run("generate.py", ["runs/x", "--prompt", "def", "--max-tokens", "3"], tmp_path, PLANTED_TOKEN="")


def run(script: str, words: list[str], cwd: Path, **more: str) -> str:
    path = os.pathsep.join([str(PROJECT), str(HARNESS_TESTS)])
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "HARNESS_ATTEMPT")
    }
    environment |= {
        "PYTHONPATH": path,
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "PLANTED_API_KEY": PLANTED["environment"],
        "PLANTED_TOKEN": PLANTED["interpolated"],
        **more,
    }
    command = [sys.executable, *([script] if script == "-m" else [str(PROJECT / script)]), *words]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "check": False}
    done = subprocess.run(command, cwd=cwd, env=environment, timeout=PATIENCE, **output)
    return done.stdout.decode("utf-8", "replace")
