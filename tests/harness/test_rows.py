"""Tables as data: the same three rows in every format are the same three documents."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

from harness.config.compose import compose
from harness.data.arrays import ArraySource
from harness.data.files import Files
from harness.data.tables import CsvSource, HfSource, JsonlSource, RowSource
from harness.errors import UserError
from lm.data.chat import ChatSource
from lm.data.prepare import Recipe, prepare
from lm.data.sources import TextSource
from lm.data.tokenizer import TokenizerChoice, train_tokenizer

TEXTS = ["a poem,\nof two lines", 'with "quotes"', "Grüße 😊"]


def jsonl(folder: Path) -> Path:
    rows = [json.dumps({"text": text, "n": number}) for number, text in enumerate(TEXTS)]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder / "rows.jsonl"


def comma(folder: Path) -> Path:
    quoted = ['"' + text.replace('"', '""') + f'",{number}' for number, text in enumerate(TEXTS)]
    (folder / "rows.csv").write_text("\n".join(["text,n", *quoted]), encoding="utf-8")
    return folder / "rows.csv"


def saved(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS, "n": [0, 1, 2]}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def parquet(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS, "n": [0, 1, 2]}).to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


FORMATS = {"jsonl": (JsonlSource, jsonl), "csv": (CsvSource, comma), "saved": (HfSource, saved)}
FORMATS["parquet"] = (HfSource, parquet)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kind, make = FORMATS[name]
    path = make(tmp_path)
    source: RowSource = kind(str(path))
    source.check()
    assert [document.text for document in source.documents()] == TEXTS
    assert source.fingerprint() == kind(str(path)).fingerprint() != kind(str(path), on_bad="skip").fingerprint()
    with pytest.raises(UserError, match=r"no text in the column 'm'.*data\.column=NAME"):
        list(kind(str(path), column="m").documents())


def test_bad_rows_are_named_or_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"text": "good"}\n\n{"text": 5}\n{broken\n' + "[" * 100_000 + '\n{"text": "too"}\n', encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"rows\.jsonl:3 has no text.*data\.on_bad=skip"):
        list(JsonlSource(str(file)).documents())
    assert [document.text for document in JsonlSource(str(file), on_bad="skip").documents()] == ["good", "too"]


BAD = {
    "invalid UTF-8": (b'{"text": "caf\xe9"}', "not UTF-8 text: .* at byte 13 of the line"),
    "a line of 10 MB": (b'{"text": "' + b"x" * 10_000_000 + b'"}', "longer than 8,388,608 bytes"),
    "malformed JSON": (b'{"text": "a', "not JSON"),
    "a missing column": (b'{"story": "a"}', "it has 'story'"),
    "not an object": (b"5", "it is 5"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_line_is_a_sentence_with_file_and_line_or_is_left_out_and_listed(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line, said = BAD[name]
    file, root = tmp_path / "rows.jsonl", tmp_path / "prepared"
    good = [json.dumps({"text": f"row {number}"}).encode() for number in range(20)]
    file.write_bytes(b"\n".join([*good, line, *good]) + b"\n")
    recipe = Recipe(300, 0.3, 0)
    with pytest.raises(UserError, match=rf"rows\.jsonl:21 .*{said}.*data\.on_bad=skip"):
        prepare(JsonlSource(str(file)), recipe, root)
    assert not [path for path in root.iterdir() if path.is_dir()], "nothing half written"
    prepared = prepare(JsonlSource(str(file), on_bad="skip"), recipe, root)
    (listed,) = [json.loads(line) for line in (prepared.folder / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert listed["where"] == f"{file}:21" and re.search(said, listed["why"])
    assert prepared.meta["train"]["documents"] + prepared.meta["val"]["documents"] == 40
    assert f"1 rows or files cannot be used and were left out; {prepared.folder / 'skipped.jsonl'}" in caplog.text
    caplog.clear()
    prepare(JsonlSource(str(file), on_bad="skip"), recipe, root)
    assert not caplog.text, "said once"


GOOD = [f"a good row with the number {number}" for number in range(40)]


def an_unknown_role(folder: Path) -> tuple[type[Files], Path]:
    file, talk = folder / "talks.jsonl", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    talks = [*([{"role": "user", "content": row}, talk[1]] for row in GOOD), [{**talk[0], "role": "wizard"}]]
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in talks), encoding="utf-8")
    return ChatSource, file


def a_row_of_a_table_without_the_column(folder: Path) -> tuple[type[Files], Path]:
    (folder / "rows.csv").write_text("n,text\n" + "".join(f"1,{row}\n" for row in GOOD) + "2\n", encoding="utf-8")
    return CsvSource, folder / "rows.csv"


def bytes_that_are_not_utf8_in_a_table(folder: Path) -> tuple[type[Files], Path]:
    a_row_of_a_table_without_the_column(folder)
    (folder / "rows.csv").write_text("text\n" + "\n".join(GOOD), encoding="utf-8")
    (folder / "spoiled.csv").write_bytes(b"text\ncaf\xe9\n")
    return CsvSource, folder


def a_row_of_parquet_without_text(folder: Path) -> tuple[type[Files], Path]:
    import datasets

    datasets.Dataset.from_dict({"text": [*GOOD, None]}).to_parquet(str(folder / "rows.parquet"))
    return HfSource, folder / "rows.parquet"


def a_shard_that_is_cut(folder: Path, suffix: str = ".parquet") -> tuple[type[Files], Path]:
    import datasets

    datasets.Dataset.from_dict({"text": GOOD}).to_parquet(str(folder / "a.parquet"))
    whole = (folder / "a.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(whole[: len(whole) // 2])
    return HfSource, folder


def a_token_beyond_the_vocabulary(folder: Path) -> tuple[type[Files], Path]:
    tokenizer = train_tokenizer(GOOD, 300, len(GOOD))
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = [token for row in [*GOOD, "the last"] for token in [*tokenizer.encode(row).ids, 0]]
    np.array([*ids[:-2], 50_000, 0], dtype="uint16").tofile(folder / "tokens.bin")
    return ArraySource, folder / "tokens.bin"


SPOILED = {
    an_unknown_role: (r"talks\.jsonl:41", "the role 'wizard' is none of system"),
    a_row_of_a_table_without_the_column: (r"rows\.csv:42", "has no text in the column 'text'"),
    bytes_that_are_not_utf8_in_a_table: (r"spoiled\.csv", "not UTF-8"),
    a_row_of_parquet_without_text: (r"rows\.parquet:40", "has no text in the column 'text'"),
    a_shard_that_is_cut: (r"b\.parquet", "is not a whole parquet file"),
    a_token_beyond_the_vocabulary: (r"tokens\.bin, position \d+", "is token 50,000, beyond the tokenizer's"),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_what_is_spoiled_is_a_sentence_with_its_place_or_is_left_out_counted_and_listed(
    spoil: Callable[[Path], tuple[type[Files], Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, root, (where, why) = tmp_path / "data", tmp_path / "prepared", SPOILED[spoil]
    folder.mkdir()
    kind, path = spoil(folder)
    given = TokenizerChoice(path=str(folder)) if kind is ArraySource else None
    with pytest.raises(UserError, match=f"{where}.*{why}"):
        prepare(kind(str(path)), Recipe(300, 0.3, 0), root, choice=given)
    assert not [each for each in root.iterdir() if each.is_dir()], "nothing half written"
    prepared = prepare(kind(str(path), on_bad="skip"), Recipe(300, 0.3, 0), root, choice=given)
    (listed,) = [json.loads(line) for line in (prepared.folder / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert re.search(where, listed["where"]) and re.search(why, listed["why"])
    assert sum(prepared.meta[split]["documents"] for split in ("train", "val")) == len(GOOD)
    assert "1 rows or files cannot be used and were left out" in caplog.text


@pytest.mark.parametrize("kind", [TextSource, JsonlSource, CsvSource, ChatSource])
def test_empty_files_are_a_sentence(kind: type[Files], tmp_path: Path) -> None:
    suffix = getattr(kind, "suffixes", (".txt",))[0]
    for name in ("a", "b"):
        (tmp_path / f"{name}{suffix}").touch()
    with pytest.raises(UserError, match="There is no text in .*: 2 files, all empty"):
        prepare(kind(str(tmp_path)), Recipe(300, 0.3, 0), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_files_that_are_not_text_are_left_out_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(f"text {number}", encoding="utf-8")
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    (folder / "empty.txt").touch()
    prepared = prepare(TextSource(str(folder), on_bad="skip"), Recipe(300, 0.3, 0), tmp_path / "p")
    listed = [json.loads(line) for line in (prepared.folder / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert [Path(entry["where"]).name for entry in listed] == ["bad.txt"] and "not UTF-8" in listed[0]["why"]
    assert not (
        prepare(TextSource(str(folder / "0*")), Recipe(300, 0.3, 0), tmp_path / "p").folder / "skipped.jsonl"
    ).exists()
    only = tmp_path / "only.jsonl"
    only.write_text("{}\n{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"All of the text was left out; the first of it: .*only\.jsonl:1 has no text"):
        prepare(JsonlSource(str(only), on_bad="skip"), Recipe(300, 0.3, 0), tmp_path / "p")


def test_a_csv_field_without_end_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('text\ngood\n"' + "x" * 10_000_000, encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.csv:\d+ cannot be read as CSV: field larger"):
        list(CsvSource(str(file)).documents())
    assert [document.text for document in CsvSource(str(file), on_bad="skip").documents()] == ["good"]


@pytest.mark.parametrize("group", ["jsonl", "csv", "hf"])
def test_each_group_builds_its_source_by_path_and_column(group: str, tmp_path: Path) -> None:
    cfg = compose([f"data={group}", f"data.path={tmp_path}", "data.column=story", "data.on_bad=skip"])
    source = instantiate(cfg.data.source)
    assert (source.path, source.column, source.on_bad, source.name) == (str(tmp_path), "story", "skip", group)
    with pytest.raises(UserError, match=r"There is no \.\w+ or \.\w+ file at data\.path="):
        source.check()
