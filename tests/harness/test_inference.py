"""generate.py and evaluate.py: what they load and say, and what they refuse in a sentence."""

import csv
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from places import PROJECT

from harness.errors import UserError
from lm.inference.evaluate import evaluate
from lm.inference.generate import choose, generate, sample
from lm.inference.load import load
from lm.summary import print_summary

HOW = {"max_tokens": 5, "temperature": 0.8, "top_k": 50, "seed": 0}


@pytest.fixture
def scores(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Return what evaluate.py --json prints."""

    def run(folder: Path, data: str | None = None, *overrides: str) -> dict:
        capsys.readouterr()
        evaluate(str(folder), data, list(overrides), as_json=True)
        return json.loads(capsys.readouterr().out)

    return run


def last_val_loss(folder: Path) -> float:
    rows = csv.DictReader((folder / "metrics.csv").read_text(encoding="utf-8").splitlines())
    return float([row["val/loss"] for row in rows if row["val/loss"]][-1])


@pytest.mark.parametrize("script", ["generate.py", "evaluate.py"])
def test_a_missing_argument_is_answered_before_torch_is_imported(script: str) -> None:
    look = f"import runpy, sys; sys.argv = ['{script}']\ntry:\n    runpy.run_path('{script}', run_name='__main__')\n"
    look += "except SystemExit as end:\n    print(end.code, {'torch', 'lm.inference.load'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], cwd=PROJECT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "2 set()\n"
    assert "the following arguments are required: RUN" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--temperature", "nan", "nan is not a finite number"),
        ("--temperature", "inf", "inf is not a finite number"),
        ("--temperature", "-1", "-1 is too small"),
        ("--seed", str(10**22), "is too large: the most is"),
        ("--seed", "1.5", "invalid whole number value: '1.5'"),
        ("--max-tokens", "0", "0 is too small"),
    ],
)
def test_an_impossible_number_is_a_sentence(option: str, value: str, sentence: str, capsys) -> None:
    parser = runpy.run_path(str(PROJECT / "generate.py"))["arguments"]()
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["runs/x", f"{option}={value}"])
    assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_the_largest_seed_is_taken(train: Callable[..., Path], capsys) -> None:
    folder = train("trainer.max_steps=1")
    capsys.readouterr()
    generate(str(folder), "def ", **HOW | {"seed": 2**63 - 1})
    assert capsys.readouterr().out.startswith("def ")


def test_what_was_loaded_is_said(train: Callable[..., Path], capsys) -> None:
    folder = train("trainer.max_steps=2")
    capsys.readouterr()
    generate(str(folder), "def ", **HOW | {"max_tokens": 40})
    text, said = capsys.readouterr()
    assert f"Loaded step 2 from {folder}/checkpoints/step-00000002, 20 of 20 tensors\n" in said
    assert f"config {folder}/config.yaml: model tiny (LlamaForCausalLM, " in said and "context 16)" in said
    assert "on cpu in float32, " in said and "tokens in " in said
    assert "beyond 16 tokens the older half is forgotten" in said
    assert text.startswith("def ") and "Loaded" not in text


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generation_honours_the_attention_of_the_run(train: Callable[..., Path], attention: str) -> None:
    trained = load(str(train(f"model.attention={attention}", "trainer.max_steps=1")))
    assert trained.model.config._attn_implementation == trained.attention == attention


def test_a_kernel_that_is_not_here_is_replaced_and_said(train: Callable[..., Path], capsys) -> None:
    folder = train("trainer.max_steps=1")
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("attention: auto", "attention: flash_attention_2")
    config.write_text(text, encoding="utf-8")  # as trained on a machine with the kernel
    assert load(str(folder)).attention == "sdpa"
    assert "model.attention=flash_attention_2 is not available here, so it is sdpa" in capsys.readouterr().err


def test_a_model_that_is_not_finite_is_a_sentence(train: Callable[..., Path], capsys) -> None:
    folder = train("trainer.max_steps=1")
    trained = load(str(folder))
    torch.nn.init.constant_(trained.model.model.norm.weight, torch.nan)
    capsys.readouterr()
    data = SimpleNamespace(tokenizer=trained.tokenizer, context=16)
    print_summary(folder, trained.model, data, None, prompt="def ")
    said = capsys.readouterr().out
    assert "output is not finite" in said and f"python evaluate.py {folder.as_posix()}" in said
    for value in (torch.nan, torch.inf):
        for temperature in (0.0, 0.8):
            with pytest.raises(UserError, match="output is not finite"):
                choose(torch.tensor([0.0, value]), temperature, None, torch.Generator())


class Successor(torch.nn.Module):
    """Says of any id that the next one follows: a model of one's own, without a cache, whose output is the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(9.0 * torch.eye(16).roll(1, dims=1))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.weight[input_ids]


def test_a_model_of_ones_own_generates_without_a_cache() -> None:
    assert list(sample(Successor(), [1, 2], max_tokens=12, context=4, temperature=0)) == [*range(3, 15)]


@pytest.mark.parametrize("packing", ["true", "false"])
def test_evaluation_cuts_the_text_as_the_training_did(train, scores, packing: str) -> None:
    folder = train(f"data.packing={packing}", "trainer.max_steps=2", "trainer.log_every_n_steps=1")
    assert scores(folder)["loss"] == pytest.approx(last_val_loss(folder), rel=1e-5)


def test_other_text_is_scored_with_the_runs_own_tokenizer(train, scores, corpus: Path, tmp_path: Path) -> None:
    folder = train("trainer.max_steps=2")
    other = tmp_path / "other text.txt"
    other.write_text("Ein Kätzchen. " * 50, encoding="utf-8")
    found = scores(folder, None, str(other))
    assert found["data"] == str(other) and found["bytes"] == len(other.read_bytes())
    ids = load(str(folder)).tokenizer.encode(other.read_text(encoding="utf-8")).ids
    assert found["tokens"] == len(ids)  # the first is predicted by nothing, and the end of the text is one more
    assert scores(folder, str(other)) == found != scores(folder)
    assert scores(folder, str(corpus))["bytes"] == sum(file.stat().st_size for file in corpus.iterdir())


def test_other_conversations_are_scored_by_their_answers(train, scores, tmp_path: Path) -> None:
    chat = PROJECT / "devtools" / "chat.jsonl"
    folder = train("data=chat", f"data.path='{chat}'", "trainer.max_steps=1", "data.batch_size=1")
    few = tmp_path / "few.jsonl"
    few.write_text("".join(chat.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    assert 0 < scores(folder, str(few))["tokens"] < scores(folder, str(chat))["tokens"]


def test_a_path_without_text_is_a_sentence(train, scores) -> None:
    with pytest.raises(UserError, match="There is no file at data.path=nowhere"):
        scores(train("trainer.max_steps=1"), None, "nowhere")


def test_what_cannot_be_scored_is_a_sentence(capsys) -> None:
    import evaluate  # the entry: what is typed is read there

    with pytest.raises(SystemExit):
        evaluate.arguments().parse_args(["runs/x", "model=14m"])
    assert "'model=14m' cannot change it, only data.path=PATH" in capsys.readouterr().err
    assert evaluate.arguments().parse_args(["runs/x", "data.path=poems"]).overrides == ["poems"]


def test_evaluation_is_not_silent_without_a_terminal(train: Callable[..., Path], monkeypatch, capsys) -> None:
    folder = train("trainer.max_steps=1")
    monkeypatch.setattr("harness.console.SECONDS_BETWEEN_LINES", 0.0)
    capsys.readouterr()
    evaluate(str(folder), None, [], as_json=False)
    out, said = capsys.readouterr()
    assert "Scoring " in said and "Scored 1 of " in said
    assert "bits per byte" in out and "held-out text" in out and "Scor" not in out


def test_the_validation_at_the_end_is_announced(train: Callable[..., Path], caplog) -> None:
    caplog.set_level("INFO")
    train("trainer.max_steps=1")
    assert "Validating the last step on " in caplog.text


@pytest.mark.slow
def test_evaluate_takes_options_and_words_in_any_order(command, train: Callable[..., Path], corpus: Path) -> None:
    folder = str(train("trainer.max_steps=1"))
    done = command("evaluate.py", folder, "--json", f"data.path={corpus}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == str(corpus)
