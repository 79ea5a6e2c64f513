import errno
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from places import PROJECT

from conftest import SMALL
from harness.data import material
from harness.data.files import blocks
from harness.data.growing import GrowingFiles
from harness.data.layout import Windows
from harness.data.split import Sample, as_limit, chosen, held_out
from harness.errors import UserError
from lm.batch import NO_LABEL
from lm.data import prepare as preparation
from lm.data.datamodule import collate
from lm.data.prepare import Prepared, Recipe, prepare, prepare_data
from lm.data.sources import Document, StdlibSource, TextSource
from lm.data.tokenizer import train_tokenizer
from lm.data.windows import Rows
from lm.keys import Keys

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
    assert "".join(blocks(io.StringIO(text))).rstrip() == text.rstrip()


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
    one, other = Document(name, text), Document(other_name, text)
    assert held_out(one.content, seed, fraction) == held_out(other.content, seed, fraction)


def test_the_split_has_about_the_fraction_asked_for() -> None:
    sides = [held_out(str(number).encode(), seed=3, val_fraction=0.2) for number in range(5000)]
    assert 900 < sum(sides) < 1100  # 1000, standard deviation 28


def used(count: int, limit: int | float | None, val_fraction: float = 0.04) -> list[tuple[str, Document]]:
    numbers = (Document("", str(number)) for number in range(count))
    return list(chosen(numbers, attrgetter("content"), 0, val_fraction, limit))


def test_a_share_of_the_documents_contains_a_smaller_share() -> None:
    tenth, half = used(1000, 0.1), used(1000, 0.5)
    assert 60 < len(tenth) < 140 and set(tenth) < set(half)
    assert used(1000, 1.0) == used(1000, None)


def test_a_number_of_documents_has_validation_text_and_one_document_is_one() -> None:
    assert Counter(split for split, _ in used(1000, 10)) == {"train": 9, "val": 1}
    assert Counter(split for split, _ in used(1000, 100)) == {"train": 96, "val": 4}
    assert Counter(split for split, _ in used(1000, 10, val_fraction=0)) == {"train": 10}
    assert [split for split, _ in used(1000, 1)] == ["train"]
    assert set(used(1000, 10)) < set(used(1000, 50))


def test_a_number_of_documents_reads_no_more_than_it_needs() -> None:
    endless = (str(number).encode() for number in itertools.count())
    assert len(list(chosen(endless, bytes, 0, 0.2, 10))) == 10


def test_whole_floats_above_one_are_numbers_and_others_are_refused() -> None:
    assert [as_limit(value) for value in (None, 1, 1.0, 0.5, 1e3)] == [None, 1, 1.0, 0.5, 1000]
    assert isinstance(as_limit(1), int) and isinstance(as_limit(1.0), float)
    with pytest.raises(UserError, match="data.limit=2.5 is neither"):
        as_limit(2.5)


def test_tokens_decode_to_the_text(prepared: Prepared, corpus: Path) -> None:
    def text(side: str) -> str:
        return prepared.tokenizer.decode(
            list(np.fromfile(prepared.numbers(side), prepared.dtype)), skip_special_tokens=False
        )

    documents = {file.read_text("utf-8") for file in corpus.iterdir()}
    found = {part for side in ("train", "val") for part in text(side).split("<|endoftext|>") if part}
    assert found == documents


def test_a_second_start_prepares_nothing(
    prepared: Prepared, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_make", lambda *_: pytest.fail("prepared again"))
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


def test_a_failed_preparation_is_gone_on_with(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = files(prepare(TextSource(str(corpus)), RECIPE, tmp_path / "straight"))

    def fail(*_: object) -> None:
        raise OSError("disk broken")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk broken"):
        patched.setattr(GrowingFiles, "append", fail)
        prepare(TextSource(str(corpus)), RECIPE, tmp_path / "p")
    monkeypatch.setattr(material, "survey", lambda *_: pytest.fail("began again"))
    assert files(prepare(TextSource(str(corpus)), RECIPE, tmp_path / "p")) == straight
    assert [path.name for path in (tmp_path / "p").iterdir()] == [next((tmp_path / "straight").iterdir()).name]


def test_a_full_disk_is_a_sentence(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GrowingFiles, "save", full)
    with pytest.raises(UserError, match=r"No space left.*data\.prepared=FOLDER"):
        prepare(TextSource(str(corpus)), RECIPE, tmp_path)


def test_text_that_cannot_be_read_leaves_nothing_half_made(tmp_path: Path) -> None:
    folder = texts(tmp_path / "text", *(f"text {number}" for number in range(20)))
    (folder / "z.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(TextSource(str(folder)), RECIPE, tmp_path / "p")
    assert not [path for path in (tmp_path / "p").iterdir() if path.is_dir()]


DAMAGE = {
    "a cut file": lambda folder: os.truncate(folder / "train.bin", 1000),
    "an empty meta.json": lambda folder: (folder / "meta.json").write_text("", encoding="utf-8"),
    "a meta.json that is a list": lambda folder: (folder / "meta.json").write_text("[1]", encoding="utf-8"),
    "a deep meta.json": lambda folder: (folder / "meta.json").write_text("[" * 100_000, encoding="utf-8"),
    "a missing file": lambda folder: (folder / "val.ends.bin").unlink(),
    "a missing tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_data_are_said_and_prepared_again(
    damage: str, prepared: Prepared, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = files(prepared)
    DAMAGE[damage](prepared.folder)
    again = prepare(TextSource(str(corpus)), RECIPE, tmp_path)
    assert files(again) == whole and again.damage
    assert f"{prepared.folder.as_posix()} is damaged" in caplog.text


def test_zeros_are_found_by_checksum(prepared: Prepared, corpus: Path, tmp_path: Path) -> None:
    whole = files(prepared)
    (prepared.folder / "train.bin").write_bytes(bytes(len(whole["train.bin"])))
    again = prepare(TextSource(str(corpus)), RECIPE, tmp_path, sums=True)
    assert files(again) == whole and "train.bin does not have the checksum" in again.damage


def test_half_made_folders_that_nobody_goes_on_with_are_swept(corpus: Path, tmp_path: Path) -> None:
    old, young = tmp_path / ".0123456789abcdef-7", tmp_path / ".fedcba9876543210"
    for folder in (old, young):
        folder.mkdir()
        (folder / "train.bin").touch()
        for path in (folder / "train.bin", folder):
            os.utime(path, (time.time() - 2 * 3600,) * 2)
    prepare(TextSource(str(corpus)), RECIPE, tmp_path)
    assert not old.exists() and young.exists()


def test_two_processes_prepare_once(corpus: Path, tmp_path: Path, command: Callable[..., object]) -> None:
    with ThreadPoolExecutor(2) as pool:
        arguments = ("prepare", *SMALL, f"data.path={corpus}", f"data.prepared={tmp_path / 'p'}")
        done = list(pool.map(lambda _: command(*arguments), range(2)))
    assert [run.returncode for run in done] == [0, 0], done
    assert sum("tokenizer (bpe) learns" in run.stderr for run in done) == 1


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a single short text", encoding="utf-8")
    with pytest.raises(UserError, match=r"None of the 1 documents falls to (val|train)") as refused:
        prepare(TextSource(str(tmp_path)), RECIPE, tmp_path / "prepared")
    assert "(0.1, say)" not in str(refused.value) and "data.val_fraction=0." in str(refused.value)


def test_without_validation_everything_is_trained_on(corpus: Path, tmp_path: Path) -> None:
    everything = prepare(TextSource(str(corpus)), replace(RECIPE, val_fraction=0.0), tmp_path)
    assert (everything.meta["train"]["documents"], everything.meta["val"]["tokens"]) == (40, 0)


def test_a_run_without_validation_has_no_loss_to_report(train: Callable[..., Path]) -> None:
    folder = train("data.val_fraction=0", "trainer.max_steps=2")
    assert (folder / "checkpoints" / "step-00000002").is_dir()
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["result"]["val_loss"] is None


def test_validation_text_can_have_a_path_of_its_own(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    folder = texts(tmp_path / "val", "held out by hand", "so is this")
    made = prepare_data(compose(f"data.val_path='{folder}'"), 300)
    assert (made.meta["train"]["documents"], made.meta["val"]["documents"]) == (40, 2)
    text = made.tokenizer.decode(list(np.fromfile(made.numbers("val"), made.dtype)), skip_special_tokens=False)
    assert text == "held out by hand<|endoftext|>so is this<|endoftext|>"
    with pytest.raises(UserError, match="no file at data.val_path=nowhere"):
        Keys.look(compose("data.val_path=nowhere"))
    with pytest.raises(UserError, match="data=stdlib takes no path"):
        prepare_data(compose("data=stdlib", f"data.val_path='{folder}'"), 300)


def test_a_run_validates_on_text_with_a_path_of_its_own(train: Callable[..., Path], tmp_path: Path) -> None:
    held_out = texts(tmp_path / "val", "held out by hand " * 20)
    folder = train(f"data.val_path='{held_out}'", "data.on_bad=skip", "trainer.max_steps=2")
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["result"]["val_loss"] > 0


def test_the_tokenizer_learns_from_documents_chosen_by_text_alone() -> None:
    documents = [Document("", f"{number} " * (number % 7 + 1)).content for number in range(500)]

    def sampled(order: list[bytes], budget: int) -> set[bytes]:
        sample = Sample(budget)
        for document in order:
            sample.add(document)
        return set(sample)

    assert list(Sample(10**6)) == []
    some = sampled(documents, 20_000)
    assert some == sampled(documents[::-1], 20_000) and 30 < len(some) < 120
    assert some < sampled(documents, 50_000)
    everything = Sample(10**6)
    for document in documents:
        everything.add(document)
    assert list(everything) == documents


def test_one_file_without_blank_lines_becomes_documents(tmp_path: Path) -> None:
    for name, text in (("lines", "one line after another\n" * 20_000), ("no ends", "x" * 1_000_000)):
        file = tmp_path / f"{name}.txt"
        file.write_text(text, encoding="utf-8")
        documents = [document.text for document in TextSource(str(file)).documents()]
        assert "".join(documents) == text
        assert len(documents) > 3 and max(map(len, documents)) <= 300_000


def test_a_large_file_of_a_folder_is_cut_and_a_small_one_is_not(tmp_path: Path) -> None:
    folder = texts(tmp_path / "books", "a poem\n\n" * 2000, "word " * 1_000_000)
    names = [document.name for document in TextSource(str(folder)).documents()]
    assert names[:2] == ["0.txt", "1.txt#0"] and len(names) > 10


def test_a_source_in_a_module_of_ones_own_needs_a_class_and_four_lines(tmp_path: Path) -> None:
    """As devtools/README.md has it, in a copy of the project."""
    page = (PROJECT / "devtools" / "README.md").read_text(encoding="utf-8")
    code, yaml = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[-1] for kind in ("python", "yaml"))
    assert len(yaml.splitlines()) == 4
    project = tmp_path / "project"
    for folder in ("conf", "lm", "harness"):
        shutil.copytree(PROJECT / folder, project / folder)
    (project / "my_sources.py").write_text(code, encoding="utf-8")
    (project / "conf" / "data" / "poems.yaml").write_text(yaml, encoding="utf-8")
    words = [sys.executable, "-m", "lm", "prepare", "data=poems", "model=tiny"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0 and "documents" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "says", "heavy"),
    [
        (["--help"], "Prepare data alone", {"torch", "transformers", "tokenizers"}),
        (["data=text", "model=tiny", "model.config.vocab_size=300"], "documents", {"torch", "transformers"}),
    ],
    ids=["help", "preparing"],
)
def test_prepare_imports_no_torch(words: list[str], says: str, heavy: set[str], corpus: Path, tmp_path: Path) -> None:
    paths = [] if words == ["--help"] else [f"data.path={corpus}", f"data.prepared={tmp_path}"]
    code = f"import atexit, runpy, sys; sys.argv = ['lm', 'prepare', *{[*words, *paths]!r}]\n"
    code += f"atexit.register(lambda: print('heavy:', sorted({heavy!r} & set(sys.modules))))\n"
    code += "runpy.run_module('lm', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert says in done.stdout and "heavy: []" in done.stdout, done.stdout + done.stderr


def texts(folder: Path, *contents: str) -> Path:
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number}.txt").write_text(content, encoding="utf-8")
    return folder


def files(prepared: Prepared) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prepared.folder.iterdir()}


@given(tokens=st.integers(2, 200), context=st.integers(2, 20))
def test_windows_predict_every_token_once(tokens: int, context: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("tokens") / "t.bin"
    np.arange(tokens, dtype="uint16").tofile(file)
    windows = Rows(file, "uint16", Windows(tokens, context, keep_last=True))
    predicted = [
        int(label) for index in range(len(windows)) for label in windows[index]["labels"][1:] if label != NO_LABEL
    ]
    assert predicted == list(range(1, tokens))
    whole = Rows(file, "uint16", Windows(tokens, context))
    assert len(whole) == (tokens - 1) // (context - 1)
    assert all((whole[index]["labels"] != NO_LABEL).all() for index in range(len(whole)))


def test_a_short_batch_is_filled_with_rows_without_labels() -> None:
    row = {"input_ids": torch.arange(3), "labels": torch.arange(3)}
    batch = collate([row], batch_size=2)
    assert batch["labels"].tolist() == [[0, 1, 2], [NO_LABEL] * 3]
    assert batch["input_ids"].shape == (2, 3)
