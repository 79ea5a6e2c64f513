"""Data sets in the hub's own forms on disk: a cache, configs, saved ones; the second start opens no socket."""

import socket
import sys
from pathlib import Path

import pytest

from harness.data.tables import HfSource
from harness.errors import UserError
from lm.data.prepare import Recipe, prepare

datasets = pytest.importorskip("datasets")
NAME, COMMIT = "someone/poems", "0123456789abcdef0123456789abcdef01234567"
CARD = """---
configs:
- config_name: short
  data_files: [{split: train, path: short/train-*}, {split: test, path: short/test.parquet}]
- config_name: long
  data_files: long.parquet
---
"""


def on_hub(folder: Path) -> Path:
    """Write a repository of two configs, one of shards with two splits, one of one file."""
    (folder / "short").mkdir(parents=True)
    for name, start in (("train-0.parquet", 0), ("train-1.parquet", 20), ("test.parquet", 40)):
        rows = {"text": [f"poem {number}" for number in range(start, start + 20)]}
        datasets.Dataset.from_dict(rows).to_parquet(str(folder / "short" / name))
    datasets.Dataset.from_dict({"text": ["a long poem"] * 3}).to_parquet(str(folder / "long.parquet"))
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one data set in it, and no network."""
    import datasets.config
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    repository = cache / "datasets--someone--poems"
    on_hub(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def texts(**arguments: str) -> list[str]:
    return [document.text for document in HfSource(**arguments).documents()]


def test_configs_and_splits_of_a_folder_and_of_a_name_are_the_same(cache: Path, tmp_path: Path) -> None:
    folder = on_hub(tmp_path / "folder")
    for path in (str(folder), NAME):
        assert texts(path=path, config="short") == [f"poem {number}" for number in range(40)]
        assert texts(path=path, config="short", split="test") == [f"poem {number}" for number in range(40, 60)]
        assert texts(path=path, config="long") == ["a long poem"] * 3
        with pytest.raises(UserError, match=r"cannot be read as a data set.*data\.config=NAME and data\.split=NAME"):
            texts(path=path, config="short", split="absent")


def test_the_second_start_opens_no_socket(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(300, 0.2, 0)
    (cache / "datasets--someone--poems" / f".whole-{COMMIT}").touch()  # as fetching leaves it
    first = prepare(HfSource(NAME, config="short"), recipe, tmp_path / "p").folder

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.delitem(sys.modules, "datasets")  # not even imported
    assert prepare(HfSource(NAME, config="short"), recipe, tmp_path / "p").folder == first
    assert "datasets" not in sys.modules
    assert HfSource(NAME, config="long").fingerprint() != HfSource(NAME, config="short").fingerprint()


def test_what_is_not_here_is_named_with_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(UserError, match=r"no/such is not on this machine.*hf download --repo-type dataset no/such"):
        HfSource("no/such").fingerprint()
    with pytest.raises(UserError, match="There is no .parquet or .arrow file at data.path=absent"):
        HfSource("absent").check()
    (cache / "datasets--someone--poems" / "blobs").mkdir()
    (cache / "datasets--someone--poems" / "blobs" / "x.incomplete").touch()
    with pytest.raises(UserError, match=f"{NAME} is not whole on this machine"):
        HfSource(NAME).fingerprint()


@pytest.mark.parametrize("damage", ["cut", "not parquet"])
def test_a_corrupt_shard_is_named_or_left_out(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    folder = on_hub(tmp_path / "folder") / "short"
    shard = folder / "train-0.parquet"
    shard.write_bytes(shard.read_bytes()[:-50] if damage == "cut" else b"PAR1 and nothing else PAR1")
    with pytest.raises(UserError, match=r"train-0\.parquet is not a whole parquet file.*data\.on_bad=skip"):
        texts(path=str(folder))
    left_out: list[str] = []
    source = HfSource(str(folder), on_bad="skip")
    source.on_skip = lambda where, why: left_out.append(where)
    assert len(list(source.documents())) == 40 and left_out == [shard.as_posix()]


@pytest.mark.parametrize("form", ["saved", "saved with splits", "arrow", "parquet"])
def test_each_form_on_disk_is_read(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    table = datasets.Dataset.from_dict({"text": ["a", "b"]})
    path = tmp_path / "data"
    if form == "parquet":
        table.to_parquet(str(path := tmp_path / "data.parquet"))
    elif form == "saved with splits":
        other = datasets.Dataset.from_dict({"text": ["c"]})
        datasets.DatasetDict({"train": table, "test": other}).save_to_disk(str(path))
        assert texts(path=str(path), split="test") == ["c"]
    else:
        table.save_to_disk(str(path))
        path = next(path.glob("*.arrow")) if form == "arrow" else path
    assert texts(path=str(path)) == ["a", "b"]
