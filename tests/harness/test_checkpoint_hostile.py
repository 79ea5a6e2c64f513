"""A checkpoint may come from anybody: whatever it holds, reading it ends soon, in a sentence, without much memory."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checkpoint import read, write
from harness.checkpoint.contents import contents

READERS = (read.verify, read.load_weights, read.load_trainer, lambda checkpoint: read.load_rng(checkpoint, 0))


@pytest.fixture
def checkpoint(tmp_path) -> read.Checkpoint:
    return write.write(
        tmp_path,
        contents(step=1, weights={"w": torch.ones(9)}, trainer={"a": torch.ones(2)}, rng=[{"seed": 1}]),
    )


def forge(checkpoint: read.Checkpoint, **changes: Any) -> None:
    """A manifest that says what its author wants, with the right checksum."""
    manifest = checkpoint.manifest | changes
    text = json.dumps(manifest | {"crc32": read.manifest_checksum(manifest)})
    (checkpoint.path / read.MANIFEST).write_text(text, encoding="utf-8")


NAMES = ("../../../dev/zero", "/dev/zero", "..", "sub/model.safetensors", r"..\x", "C:x", "", "\x1b[2Jx", "a\nb")


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_names_files_of_its_own_folder_only(checkpoint, name: str) -> None:
    forge(checkpoint, files={name: {"bytes": 0, "crc32": "00000000"}})
    with pytest.raises(read.DamagedCheckpoint, match="is not the name of a file of a checkpoint"):
        read.open_checkpoint(checkpoint.path)


ODD = {
    "a list": "[1, 2]",
    "a number": "7",
    "nothing": "",
    "nested deeply": "[" * 100_000,
    "objects nested deeply": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "NULs": b"\x00" * 100,
    "no checksum": "{}",
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_a_manifest_that_is_none_is_damaged(checkpoint, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    (checkpoint.path / read.MANIFEST).write_bytes(data)
    with pytest.raises(read.DamagedCheckpoint, match=r"MANIFEST\.json cannot be read"):
        read.open_checkpoint(checkpoint.path)
    assert read.checkpoints(checkpoint.path.parent) == []


@pytest.mark.parametrize(
    "changes",
    [{"step": "1"}, {"step": None}, {"sequence": -1}, {"schema": []}, {"files": [1]}, {"files": {"a": 1}},
     {"score": "best"}, {"files": {"a": {"bytes": True, "crc32": ""}}}],
)  # fmt: skip
def test_a_value_of_another_type_is_damaged(checkpoint, changes: dict[str, Any]) -> None:
    forge(checkpoint, **changes)
    with pytest.raises(read.DamagedCheckpoint):
        read.open_checkpoint(checkpoint.path)


def test_a_huge_manifest_is_not_read(checkpoint) -> None:
    with (checkpoint.path / read.MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # a hole: takes no room
    with pytest.raises(read.DamagedCheckpoint, match="1099511627776 bytes are too many"):
        read.open_checkpoint(checkpoint.path)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices are no files there")
@pytest.mark.parametrize("replace", [as_pipe, as_device, as_folder])
@pytest.mark.parametrize("name", [read.MANIFEST, read.WEIGHTS, read.TRAINER, read.TRAINER_TENSORS, "rng-rank0.pt"])
def test_what_would_never_end_is_not_opened(checkpoint, replace, name: str) -> None:
    replace(checkpoint.path / name)
    with pytest.raises(read.DamagedCheckpoint, match=f"{name} cannot be read .it is not a file"):
        for reader in READERS:
            reader(read.open_checkpoint(checkpoint.path))


HEADERS = {
    "a header of 2^62 bytes": (1 << 62).to_bytes(8, "little") + b"{}",
    "a header without end": (10).to_bytes(8, "little") + b'{"w":{"dt',
    "a tensor beyond the file": (57).to_bytes(8, "little")
    + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}  ',
    "nothing": b"",
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_takes_no_memory(checkpoint, content: bytes) -> None:
    for name, load in ((read.WEIGHTS, read.load_weights), (read.TRAINER_TENSORS, read.load_trainer)):
        (checkpoint.path / name).write_bytes(content)
        with pytest.raises(read.DamagedCheckpoint, match=f"{name} cannot be read"):
            load(checkpoint)


def test_a_pickle_that_would_run_something_is_damaged(checkpoint) -> None:
    class Attack:
        def __reduce__(self):
            return os.getcwd, ()

    for content in (b"", b"not a pickle", b"\x80\x04]" + b"]" * 100_000 + b"."):
        (checkpoint.path / read.TRAINER).write_bytes(content)
        with pytest.raises(read.DamagedCheckpoint, match=r"trainer\.pt cannot be read"):
            read.load_trainer(checkpoint)
    torch.save({"a": Attack()}, checkpoint.path / read.TRAINER)
    with pytest.raises(read.DamagedCheckpoint, match=r"trainer\.pt cannot be read"):
        read.load_trainer(checkpoint)


@pytest.mark.slow
def test_generate_answers_a_hostile_checkpoint_with_a_sentence(train, command) -> None:
    folder = train("run.name=received", "trainer.max_steps=1")
    found = read.checkpoints(folder / "checkpoints")[0]
    forge(found, files=found.manifest["files"] | {"../../../../dev/zero": {"bytes": 0, "crc32": "0"}})
    done = command("generate.py", str(folder))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "is not the name of a file of a checkpoint" in done.stderr
