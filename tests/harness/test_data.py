from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from lm.batch import NO_LABEL
from lm.data import prepare as preparation
from lm.data.datamodule import collate
from lm.data.prepare import Prepared, Recipe, prepare
from lm.data.sources import Document, StdlibSource, TextSource, blocks
from lm.data.split import held_out, limited
from lm.data.tokenizer import train_tokenizer
from lm.data.windows import Windows

RECIPE = Recipe(vocab_size=300, val_fraction=0.2, seed=0)


@pytest.fixture
def prepared(corpus: Path, tmp_path: Path) -> Prepared:
    return prepare(TextSource(str(corpus)), RECIPE, tmp_path)


def test_a_text_can_be_a_file_a_folder_or_a_glob(corpus: Path) -> None:
    assert len(list(TextSource(str(corpus)).documents())) == 40
    assert len(list(TextSource(str(corpus / "0*.txt")).documents())) == 10
    assert "".join(document.text for document in TextSource(str(corpus / "07.txt")).documents()) == (
        corpus / "07.txt"
    ).read_text("utf-8")


@given(st.lists(st.text("ab \n", max_size=3000), max_size=9).map("\n\n".join))
def test_blocks_lose_nothing_but_trailing_blank(text: str) -> None:
    assert "".join(blocks(text)).rstrip() == text.rstrip()


def test_no_text_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for path in (None, str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(UserError, match="data=text data.path=PATH|data=stdlib"):
            TextSource(path).check()


def test_what_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt is not UTF-8 text: .* at byte 3"):
        list(TextSource(str(tmp_path)).documents())


def test_line_ends_indentation_and_digits_are_tokens_of_their_own() -> None:
    tokenizer = train_tokenizer(["if x == 1234:\n    return 1234\n"] * 50, vocab_size=400, total=50)
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode("if x == 1234:\n    return 1234\n").ids]
    assert tokens == [
        "if",
        " x",
        " ==",
        " ",
        "1",
        "2",
        "3",
        "4",
        ":",
        "\n",
        "   ",
        " return",
        " ",
        "1",
        "2",
        "3",
        "4",
        "\n",
    ]


def test_the_standard_library_is_there() -> None:
    source = StdlibSource()
    source.check()
    names = [document.name for document in source.documents()]
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert not [name for name in names if name.startswith("test/") or "/tests/" in name or "site-packages" in name]


@given(st.text(), st.text(), st.text(), st.integers(0, 99), st.floats(0.01, 0.5))
def test_equal_texts_are_on_one_side(name: str, other_name: str, text: str, seed: int, fraction: float) -> None:
    assert held_out(Document(name, text), seed, fraction) == held_out(Document(other_name, text), seed, fraction)


def test_the_split_has_about_the_fraction_asked_for() -> None:
    sides = [held_out(Document("", str(number)), seed=3, val_fraction=0.2) for number in range(5000)]
    assert 900 < sum(sides) < 1100  # 1000, standard deviation 28


def test_a_limit_is_a_number_or_a_share_and_a_larger_share_contains_a_smaller() -> None:
    documents = [Document("", str(number)) for number in range(1000)]
    assert len(list(limited(documents, 7))) == 7
    tenth, half = list(limited(documents, 0.1)), list(limited(documents, 0.5))
    assert 60 < len(tenth) < 140 and set(tenth) < set(half)


def test_tokens_decode_to_the_text(prepared: Prepared, corpus: Path) -> None:
    def text(side: str) -> str:
        return prepared.tokenizer.decode(
            list(np.fromfile(prepared.tokens(side), prepared.dtype)), skip_special_tokens=False
        )

    documents = {file.read_text("utf-8") for file in corpus.iterdir()}
    found = {part for side in ("train", "val") for part in text(side).split("<|endoftext|>") if part}
    assert found == documents


def test_a_second_start_prepares_nothing(
    prepared: Prepared, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_write", lambda *_: pytest.fail("prepared again"))
    assert prepare(TextSource(str(corpus)), RECIPE, tmp_path).folder == prepared.folder


def test_changed_content_and_changed_recipes_are_prepared_anew(corpus: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for file in corpus.iterdir():
        (text / file.name).write_bytes(file.read_bytes())
    first = prepare(TextSource(str(text)), RECIPE, tmp_path / "p")
    (text / "00.txt").write_text("something else", encoding="utf-8")
    second = prepare(TextSource(str(text)), RECIPE, tmp_path / "p")
    third = prepare(TextSource(str(text)), Recipe(vocab_size=299, val_fraction=0.2, seed=0), tmp_path / "p")
    assert len({first.folder, second.folder, third.folder}) == 3


def test_a_failed_preparation_leaves_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(preparation, "_encode", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare(TextSource(str(corpus)), RECIPE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a single short text", encoding="utf-8")
    with pytest.raises(UserError, match=r"None of the 1 documents falls to (val|train)"):
        prepare(TextSource(str(tmp_path)), RECIPE, tmp_path / "prepared")


@given(tokens=st.integers(2, 200), context=st.integers(2, 20))
def test_windows_predict_every_token_once(tokens: int, context: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("tokens") / "t.bin"
    np.arange(tokens, dtype="uint16").tofile(file)
    windows = Windows(file, "uint16", context, keep_last=True)
    predicted = [
        int(label) for index in range(len(windows)) for label in windows[index]["labels"][1:] if label != NO_LABEL
    ]
    assert predicted == list(range(1, tokens))
    whole = Windows(file, "uint16", context)
    assert len(whole) == (tokens - 1) // (context - 1)
    assert all((whole[index]["labels"] != NO_LABEL).all() for index in range(len(whole)))


def test_a_short_batch_is_filled_with_rows_without_labels() -> None:
    row = {"input_ids": torch.arange(3), "labels": torch.arange(3)}
    batch = collate([row], batch_size=2)
    assert batch["labels"].tolist() == [[0, 1, 2], [NO_LABEL] * 3]
    assert batch["input_ids"].shape == (2, 3)
