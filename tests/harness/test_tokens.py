"""Files that are tokenized already: they are trained on as they are, and what cannot be is named with its place."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.data.arrays import ArraySource
from harness.errors import UserError
from lm.data.prepare import Prepared, Recipe, prepare
from lm.data.sets import prepare_sets
from lm.data.tokenizer import TokenizerChoice, train_tokenizer

TEXTS = [f"a text, number {number} of forty\n" for number in range(40)]
RECIPE = Recipe(300, 0.2, 0)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    train_tokenizer(TEXTS, 300, len(TEXTS)).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def ids(tokenizer: Path) -> list[int]:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return [token for text in TEXTS for token in [*made.encode(text).ids, 0]]


def prepared(path: Path, tokenizer: Path, **arguments: str) -> Prepared:
    source = ArraySource(str(path), **arguments)
    return prepare(source, RECIPE, path.parent / "p", choice=TokenizerChoice(path=str(tokenizer)))


@pytest.mark.parametrize("form", ["uint16.bin", "uint32.bin", "uint16.npy", "uint32.npy"])
def test_every_form_gives_the_same_tokens(form: str, ids: list[int], tokenizer: Path, tmp_path: Path) -> None:
    dtype, _, kind = form.partition(".")
    path, array = tmp_path / f"tokens.{kind}", np.array(ids, dtype=dtype)
    array.tofile(path) if kind == "bin" else np.save(path, array)
    made = prepared(path, tokenizer, **({"dtype": dtype} if kind == "bin" else {}))
    tokens = [np.fromfile(made.numbers(split), made.dtype).tolist() for split in ("train", "val")]
    documents = [
        text
        for split in tokens
        for text in made.tokenizer.decode(split, skip_special_tokens=False).split("<|endoftext|>")
    ]
    assert sorted(documents) == sorted([*TEXTS, "", ""])
    assert sum(made.meta[split]["bytes"] for split in ("train", "val")) == sum(len(text) for text in TEXTS)


def test_a_token_beyond_the_vocabulary_is_named_or_left_out(ids: list[int], tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    array = np.array(ids, dtype="uint16")
    array[100] = 50_000
    array.tofile(path)
    with pytest.raises(UserError, match=r"tokens\.bin, position 100: it is token 50,000, beyond the tokenizer's \d+"):
        prepared(path, tokenizer)
    made = prepared(path, tokenizer, on_bad="skip")
    assert sum(made.meta[split]["documents"] for split in ("train", "val")) == 39
    assert "position 100" in json.loads((made.folder / "skipped.jsonl").read_text("utf-8"))["where"]


def test_what_is_not_a_file_of_tokens_is_a_sentence(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    path.write_bytes(b"123")
    with pytest.raises(UserError, match="cannot be read as uint16.*data.dtype"):
        prepared(path, tokenizer)
    np.save(tmp_path / "floats.npy", np.zeros((3, 3)))
    with pytest.raises(UserError, match=r"is not a row of unsigned whole numbers: it is float64 \(3, 3\)"):
        prepared(tmp_path / "floats.npy", tokenizer)
    path.write_bytes(b"1234")
    with pytest.raises(UserError, match=r"needs the tokenizer .*data\.tokenizer\.path=PATH"):
        prepare(ArraySource(str(path)), RECIPE, tmp_path / "p")


def test_such_files_train_and_score(
    ids: list[int], tokenizer: Path, tmp_path: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from lm.inference.evaluate import evaluate

    for name in ("train", "val"):
        np.array(ids * 4, dtype="uint16").tofile(tmp_path / f"{name}.bin")
    paths = (f"data.path={tmp_path / 'train.bin'}", f"data.val_path={tmp_path / 'val.bin'}")
    folder = train(
        "data=tokens", *paths, f"data.tokenizer.path={tokenizer}", "data.packing=document", "trainer.max_steps=1"
    )
    evaluate(str(folder), None, [], as_json=True)
    evaluate(str(folder), str(tmp_path / "val.bin"), [], as_json=True)
    held_out, again = (json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert held_out["loss"] == again["loss"] and held_out["bytes"] == again["bytes"] == 4 * sum(map(len, TEXTS))


def test_in_a_mixture_they_ask_for_their_tokenizer(ids: list[int], tokenizer: Path, tmp_path: Path) -> None:
    np.array(ids, dtype="uint16").tofile(tmp_path / "tokens.bin")
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS * 400), encoding="utf-8")
    sets = {
        "tokens": {"path": str(tmp_path / "tokens.bin"), "weight": 1},
        "text": {"path": str(tmp_path / "text.txt"), "weight": 1},
    }
    with pytest.raises(UserError, match=r"needs the tokenizer .*data\.tokenizer\.path=PATH"):
        prepare_sets(sets, RECIPE, tmp_path / "p", TokenizerChoice())
    _, parts = prepare_sets(sets, RECIPE, tmp_path / "p", TokenizerChoice(path=str(tokenizer)))
    assert sum(parts["tokens"].meta[split]["documents"] for split in ("train", "val")) == len(TEXTS)
