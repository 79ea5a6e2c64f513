"""python -m lm export: what transformers loads from it, without this project, is what was trained."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from places import PATIENCE
from pretrained_models import make, words
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from harness.config.check import check
from harness.config.compose import compose
from harness.errors import UserError
from lm import fit
from lm.inference import export as exporting
from lm.inference.export import export
from lm.inference.load import load
from lm.models.lora import merge

IDS = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))
# Everything that a machine without this project and without a network could not do.
ALONE = """
import json, socket, sys
def refuse(*_): raise AssertionError("a socket was opened")
socket.socket.connect = socket.getaddrinfo = refuse
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
folder, = sys.argv[1:]
say = pipeline("text-generation", folder)
text = say("def return", max_new_tokens=5, do_sample=False)[0]["generated_text"]
ids = AutoTokenizer.from_pretrained(folder)("def return", return_tensors="pt").input_ids
logits = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")(ids).logits
assert not {"lm", "harness"} & {name.partition(".")[0] for name in sys.modules}
print(json.dumps([text, ids.tolist(), logits.tolist()]))
"""


@pytest.fixture
def tune(corpus: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(model: Path, preset: str = "pretrained", *overrides: str) -> Path:
        cfg = compose([*words(model, corpus, tmp_path, preset), "trainer.limit_val_batches=1", *overrides])
        check(cfg)
        OmegaConf.resolve(cfg)
        fit.train(cfg)
        return Path(cfg.run.dir)

    return run


def hand_over(run: Path, out: Path, *, adapter: bool = False, dtype: str = "float32") -> Path:
    export(str(run), str(out), adapter=adapter, dtype=dtype, push=None)
    return out


def logits(model) -> torch.Tensor:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model.eval()(IDS).logits


WAYS = ("whole", "merged", "adapter")
ROUND_TRIPS = [
    (shape, tied, preset)
    for shape in ("gpt2", "llama", "qwen3")
    for tied in (True, False)
    for preset in ("pretrained", "lora")
]
QUICK = {("gpt2", True, "lora"), ("llama", False, "pretrained")}


@pytest.mark.parametrize(
    ("shape", "tied", "preset"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in ROUND_TRIPS],
)
def test_what_comes_back_is_what_was_trained(tmp_path: Path, tune, capsys, shape: str, tied: bool, preset: str) -> None:
    run = tune(make(tmp_path / "base", shape, tie_word_embeddings=tied), preset, "optimizer.lr=1e-2")
    out = hand_over(run, tmp_path / "out")
    assert "largest logit difference 0.0 over 64 prompts\n" in capsys.readouterr().out
    trained, theirs = load(str(run)).model.cpu(), AutoModelForCausalLM.from_pretrained(out)
    if preset == "lora":
        adapted = logits(trained)
        again = AutoModelForCausalLM.from_pretrained(hand_over(run, tmp_path / "adapter", adapter=True))
        assert torch.equal(logits(again), adapted)
        merge(trained)
        assert torch.allclose(logits(trained), adapted, atol=1e-5)
        assert not torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base")), adapted)
    assert torch.equal(logits(theirs), logits(trained))
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) is not tied
    assert (theirs.lm_head.weight is theirs.get_input_embeddings().weight) is tied
    assert pipeline("text-generation", str(out))("def", max_new_tokens=2, do_sample=False)


ALONES = [("gpt2", True, "merged"), *((shape, False, way) for shape in ("gpt2", "llama", "qwen3") for way in WAYS)]


@pytest.mark.parametrize(
    ("shape", "tied", "way"),
    [pytest.param(*case, marks=() if case == ALONES[0] else pytest.mark.slow) for case in ALONES],
)
def test_it_loads_without_this_project_and_without_a_network(
    tmp_path: Path, tune, shape: str, tied: bool, way: str
) -> None:
    base = make(tmp_path / "base", shape, tie_word_embeddings=tied)
    run = tune(base, "pretrained" if way == "whole" else "lora")
    out = hand_over(run, tmp_path / "out", adapter=way == "adapter")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(out)], cwd=tmp_path, env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True, encoding="utf-8", timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text, ids, numbers = json.loads(done.stdout.splitlines()[-1])
    trained = load(str(run))
    assert text.startswith("def return") and ids == [trained.tokenizer.encode("def return").ids]
    if way == "merged":
        merge(trained.model)
    trained.model.set_attn_implementation("eager")
    ours = trained.model.cpu()(torch.tensor(ids)).logits
    assert torch.allclose(torch.tensor(numbers), ours, atol=1e-6)  # with as many threads as that process has


def test_all_that_belongs_to_a_model_is_there(tmp_path: Path, tune, corpus: Path) -> None:
    base = make(tmp_path / "base")
    settings = {"do_sample": True, "temperature": 0.6, "eos_token_id": [0, 5], "bos_token_id": 0}
    (base / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    run = tune(base, "pretrained", "trainer.max_steps=2")
    run = tune(base, "pretrained", "trainer.max_steps=4")  # resumed: it is built without the base's weights
    out = hand_over(run, tmp_path / "out", dtype="bfloat16")
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert theirs.dtype == torch.bfloat16
    assert (theirs.generation_config.temperature, theirs.generation_config.eos_token_id) == (0.6, [0, 5])
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("<|endoftext|>", 32)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "def"}], tokenize=False) == "def"
    card = (out / "README.md").read_text(encoding="utf-8")
    for fact in (
        "GPT2LMHeadModel",
        "text: 3",
        "| steps | 4 |",
        "nats per token",
        "largest logit difference 0.0",
        "lr:",
    ):
        assert fact in card


def test_an_average_is_what_is_handed_over(tmp_path: Path, train) -> None:
    run = train("callbacks=[default,ema]", "optimizer.lr=1e-2")
    theirs = AutoModelForCausalLM.from_pretrained(hand_over(run, tmp_path / "out"))
    assert torch.equal(logits(theirs), logits(load(str(run)).model.cpu()))


@pytest.mark.parametrize("spoiled", ["weights", "tokenizer"])
def test_what_is_not_the_same_is_not_written(tmp_path: Path, train, monkeypatch, spoiled: str) -> None:
    run, write = train(), exporting.copy_tokenizer

    def spoil(source: Path, folder: Path, longest: int) -> None:
        write(source, folder, longest)
        if spoiled == "weights":
            weights = load_file(folder / "model.safetensors")
            weights["model.norm.weight"][0] += 1e-3
            save_file(weights, folder / "model.safetensors", {"format": "pt"})
        else:
            text = (folder / "tokenizer.json").read_text(encoding="utf-8").replace('"Isolated"', '"Removed"', 1)
            (folder / "tokenizer.json").write_text(text, encoding="utf-8")

    monkeypatch.setattr(exporting, "copy_tokenizer", spoil)
    with pytest.raises(UserError, match="other logits, by up to|makes other tokens than the run"):
        hand_over(run, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_what_cannot_be_handed_over_is_one_sentence(tmp_path: Path, train) -> None:
    run = train()
    with pytest.raises(UserError, match="has no adapter: it was not trained with model=lora"):
        hand_over(run, tmp_path / "out", adapter=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is there already"):
        hand_over(run, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_a_module_that_transformers_lacks_is_refused(tmp_path: Path, train, monkeypatch) -> None:
    own = replace(load(str(train())), model=torch.nn.Linear(2, 2))
    monkeypatch.setattr(exporting, "load", lambda *_, **__: own)
    with pytest.raises(UserError, match=r"transformers has no torch\.nn\.modules\.linear\.Linear"):
        hand_over(tmp_path / "run", tmp_path / "out")


@pytest.mark.slow
def test_lm_eval_runs_on_it(tmp_path: Path, train) -> None:
    pytest.importorskip("lm_eval")
    out = hand_over(train(), tmp_path / "out")
    rows = [{"text": "def return if", "choices": ["else", "list"], "label": n % 2} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "doc_to_text: '{{text}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: label\nmetric_list: [{metric: acc}]\n",
        encoding="utf-8",
    )
    words = ["--model", "hf", "--model_args", f"pretrained={out},dtype=float32", "--tasks", "mine", "--device", "cpu"]
    words += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "scores"), "--batch_size", "4"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words], cwd=tmp_path, env={**os.environ, **offline, "PYTHONPATH": ""},
        capture_output=True, encoding="utf-8", timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (scores,) = (tmp_path / "scores").rglob("results*.json")
    assert 0 <= json.loads(scores.read_text(encoding="utf-8"))["results"]["mine"]["acc,none"] <= 1


def test_a_push_without_a_hub_is_one_sentence_and_what_is_written_stays(tmp_path: Path, train, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    run, out = train("trainer.max_steps=1"), tmp_path / "out"
    with pytest.raises(UserError, match=r"out is written, and not pushed: .*refused.* hf upload me/mine "):
        export(str(run), str(out), adapter=False, dtype="float32", push="me/mine")
    assert AutoModelForCausalLM.from_pretrained(out)


def test_a_push_makes_a_private_repository_and_puts_all_into_it(tmp_path: Path, train, monkeypatch, capsys) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    class Hub:
        def create_repo(self, name: str, **how: object) -> None:
            asked.append((name, how))

        def upload_folder(self, *, folder_path: Path, repo_id: str) -> None:
            asked.append((repo_id, {"files": {file.name for file in folder_path.iterdir()}}))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    export(str(train("trainer.max_steps=1")), str(tmp_path / "out"), adapter=False, dtype="float32", push="me/mine")
    (made, how), (filled, what) = asked
    assert made == filled == "me/mine" and how == {"private": True, "exist_ok": True}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= what["files"]
    assert capsys.readouterr().out.endswith("Pushed to me/mine\n")
