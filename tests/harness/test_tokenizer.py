"""The tokenizer is a choice: trained here, or given; its special tokens go with it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from places import PROJECT
from pretrained_models import write_old_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2Config

from harness.errors import UserError
from lm.data.chat import ChatSource
from lm.data.prepare import Prepared, Recipe, prepare, prepare_data
from lm.data.sources import TextSource
from lm.data.tokenizer import KINDS, NOT_REPEATABLE, TokenizerChoice, special_ids

TEXT = "def f(x):\n    return 'Grüße 😊 漢字\x00'\n"


def given(folder: Path, *special: str) -> Path:
    """A tokenizer of somebody else's: words, padded to 512, with a beginning before each text."""
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = trainers.WordLevelTrainer(special_tokens=["[UNK]", "<s>", *special], show_progress=False)
    tokenizer.train_from_iterator(["def return if else for in self import class name value list"], words)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.enable_padding(length=512)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def made(compose: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Prepared]:
    return lambda *overrides: prepare_data(compose(f"data.prepared={tmp_path / 'p'}", *overrides), 300)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_back_the_text_and_is_trained_the_same_twice(kind: str) -> None:
    first, second = (TokenizerChoice(kind).build([TEXT], 300, 1, special=["<|x|>"]) for _ in range(2))
    assert first.to_str() == second.to_str() or kind in NOT_REPEATABLE
    assert first.decode(first.encode(TEXT).ids, skip_special_tokens=False) == TEXT
    assert (first.token_to_id("<|endoftext|>"), first.token_to_id("<|x|>")) == (0, 1)


def test_bytes_are_the_smallest_vocabulary(made: Callable[..., Prepared]) -> None:
    prepared = made("data.tokenizer.kind=bytes")
    assert prepared.meta["vocab_size"] == 257
    assert prepared.meta["train"]["tokens"] == prepared.meta["train"]["bytes"] + prepared.meta["train"]["documents"]


@pytest.mark.parametrize("by", ["file", "folder"])
def test_a_tokenizer_that_is_given_is_taken_as_it_is(by: str, made: Callable[..., Prepared], tmp_path: Path) -> None:
    folder = given(tmp_path / "given", "</s>", "<pad>")
    names = {"eos_token": {"content": "</s>"}, "bos_token": "<s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    prepared = made(f"data.tokenizer.path={folder / 'tokenizer.json' if by == 'file' else folder}")
    assert prepared.special_ids == {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 3}
    counts = prepared.meta["train"]
    assert counts["tokens"] < 200 * counts["documents"], "neither padded nor begun with <s>"


@pytest.mark.parametrize("by", ["file", "folder"])
def test_a_tokenizer_in_the_files_of_gpt2_is_read_as_transformers_reads_it(
    by: str, made: Callable[..., Prepared], tmp_path: Path
) -> None:
    folder = tmp_path / "gpt2"
    GPT2Config(vocab_size=290).save_pretrained(folder)
    write_old_tokenizer(folder, 290)
    path = folder if by == "folder" else folder / "vocab.json"
    prepared, theirs = made(f"data.tokenizer.path={path}"), AutoTokenizer.from_pretrained(folder)
    assert (
        prepared.tokenizer.encode(TEXT).ids == theirs(TEXT)["input_ids"]
        and theirs.decode(theirs(TEXT)["input_ids"]) == TEXT
    )
    assert prepared.special_ids["eos_token_id"] == theirs.eos_token_id == 289
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    (folder / "merges.txt").write_text("\n".join(merges[:-1]) + "\n", encoding="utf-8")
    assert made(f"data.tokenizer.path={path}").folder != prepared.folder


def test_the_end_of_a_text_is_found_named_or_asked_for(made: Callable[..., Prepared], tmp_path: Path) -> None:
    known, unknown = given(tmp_path / "known", "</s>"), given(tmp_path / "unknown", "<stop>")
    assert made(f"data.tokenizer.path={known}").special_ids["eos_token_id"] == 2
    with pytest.raises(UserError, match=r"which token ends a text.*data\.tokenizer\.end_of_text="):
        made(f"data.tokenizer.path={unknown}")
    ids = made(f"data.tokenizer.path={unknown}", 'data.tokenizer.end_of_text="<stop>"').special_ids
    assert ids == {"eos_token_id": 2, "bos_token_id": 2, "pad_token_id": None}


def test_what_is_not_a_tokenizer_is_a_sentence(made: Callable[..., Prepared], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    for value, said in (("absent.json", r"no tokenizer\.json at"), (f"{tmp_path}", "is not a tokenizer.json")):
        with pytest.raises(UserError, match=said):
            made(f"data.tokenizer.path={value}")
    with pytest.raises(UserError, match="none of bpe, unigram, bytes, characters"):
        TokenizerChoice("words").fingerprint()


def test_a_tokenizer_larger_than_the_model_is_refused_with_the_number(
    compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    cfg = compose(f"data.prepared={tmp_path}", "data.tokenizer.kind=bytes")
    with pytest.raises(UserError, match=r"model\.config\.vocab_size=257"):
        prepare_data(cfg, 100)


def test_transformers_loads_the_tokenizer_with_its_special_tokens(tmp_path: Path) -> None:
    source = ChatSource(str(PROJECT / "devtools" / "chat.jsonl"))
    prepared = prepare(source, Recipe(vocab_size=600, val_fraction=0.2, seed=0), tmp_path / "p")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name, content in prepared.tokenizer_files.items():
        (folder / name).write_text(content, encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(str(folder))
    assert (loaded.eos_token, loaded.bos_token, loaded.pad_token) == ("<|endoftext|>",) * 3
    assert loaded.eos_token_id == 0 == prepared.special_ids["eos_token_id"]
    assert loaded.decode(loaded("<|im_start|> Hi there")["input_ids"]) == "<|im_start|> Hi there"
    assert "<|im_start|>user\nHi" in loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert special_ids(prepared.tokenizer, tmp_path) == prepared.special_ids, "checkpoints of before have no names"


def test_another_training_of_a_kind_that_differs_is_other_data(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, choice = Recipe(vocab_size=400, val_fraction=0.2, seed=0), TokenizerChoice("unigram")
    first = prepare(TextSource(str(corpus)), recipe, tmp_path / "p", choice=choice).folder
    assert prepare(TextSource(str(corpus)), recipe, tmp_path / "p", choice=choice).folder == first
    build = TokenizerChoice.build
    monkeypatch.setattr(TokenizerChoice, "build", lambda self, texts, *a, **k: build(self, list(texts)[1:], *a, **k))
    assert prepare(TextSource(str(corpus)), recipe, tmp_path / "q", choice=choice).folder.name != first.name


def test_another_tokenizer_is_another_preparation(corpus: Path, tmp_path: Path) -> None:
    recipe = Recipe(vocab_size=300, val_fraction=0.2, seed=0)
    folders = {
        prepare(TextSource(str(corpus)), recipe, tmp_path, choice=TokenizerChoice(kind)).folder for kind in KINDS
    }
    assert len(folders) == len(KINDS)


def test_a_run_samples_and_is_scored_with_a_tokenizer_that_is_given(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm.inference.evaluate import evaluate
    from lm.inference.generate import generate

    folder = given(tmp_path / "given", "</s>")
    run = train(f"data.tokenizer.path={folder}", "data.tokenizer.kind=bpe", "trainer.max_steps=2")
    checkpoint = run / "checkpoints" / "step-00000002"
    assert json.loads((checkpoint / "config.json").read_text("utf-8"))["eos_token_id"] == 2
    assert AutoTokenizer.from_pretrained(str(checkpoint)).eos_token == "</s>"
    generate(str(run), "def", 5, 0.8, 5, 0)
    evaluate(str(run), None, [], as_json=True)
    assert "bits_per_byte" in capsys.readouterr().out
