"""Find a checkpoint, prove that it is whole, load it.

A *checkpoint* is a folder `step-00000100/` that holds a model and everything needed to go on training it:

    model.safetensors     the weights under transformers' names, tied tensors once
    trainer.safetensors   every other tensor: the optimizer's moments, callbacks' states
    trainer.pt            what is not a tensor: counters, schedules, callbacks' settings
    rng-rank0.pt          the random generators, one file per rank
    MANIFEST.json         sizes and checksums of the above, step, sequence; written last

Sharded, the first two are a file per rank, `model-rank0.safetensors` and so on; they are put together when read.

Checkpoints are ordered by (step, sequence) from their manifests: a clock may jump, a copy has new file times.
"""

import json
import logging
import re
import stat
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from harness.checkpoint import shards
from harness.checkpoint.manifest import LARGEST_MANIFEST, check_manifest, manifest_checksum
from harness.checkpoint.tree import join
from harness.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
WEIGHTS = "model.safetensors"
TRAINER = "trainer.pt"
TRAINER_TENSORS = "trainer.safetensors"
FOLDER = re.compile(r"step-\d{8,}")
SCHEMA = 1


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest was read and is intact. `verify` looks at the other files."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def sequence(self) -> int:
        """Grows by one with every checkpoint of a run; tells apart two checkpoints of one step."""
        return int(self.manifest["sequence"])

    @property
    def bytes(self) -> int:
        return sum(int(file["bytes"]) for file in self.manifest["files"].values())

    def holding(self, name: str) -> list[Path]:
        """Return the files that hold the tensors of `name`: it alone, or those that ranks wrote in its place."""
        if WEIGHTS.replace(".", "-rank0.") not in (files := self.manifest["files"]):
            return [self.path / name]
        return [self.path / file for file in files if re.fullmatch(name.replace(".", r"-rank\d+\."), file)]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the manifest of the checkpoint folder `path`. Raises DamagedCheckpoint."""
    with _named(path / MANIFEST):
        if (size := _size(path / MANIFEST)) > LARGEST_MANIFEST:
            raise ValueError(f"{size} bytes are too many")
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        written = manifest.pop("crc32")
        intact = written == manifest_checksum(manifest)
    if not intact:
        raise DamagedCheckpoint(f"{path / MANIFEST} was changed after it was written: its checksum differs.")
    with _named(path / MANIFEST):
        check_manifest(manifest)
    if manifest["schema"] > SCHEMA:
        raise DamagedCheckpoint(
            f"{path / MANIFEST} has schema {manifest['schema']}; this version reads up to {SCHEMA}."
        )
    return Checkpoint(path, manifest)


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints in `folder`, oldest first. A folder without an intact manifest is not one."""
    return _survey(folder)[0]


def verify(checkpoint: Checkpoint, files: Collection[str] | None = None) -> None:
    """Compare every file (or only `files`) with the manifest. Raises DamagedCheckpoint, which names the bad file."""
    for name, expected in checkpoint.manifest["files"].items():
        if files is not None and name not in files:
            continue
        path = checkpoint.path / name
        with _named(path):
            if (size := _size(path)) != expected["bytes"]:
                raise DamagedCheckpoint(f"{path} has {size} bytes, not {expected['bytes']}.")
            if checksum(path) != expected["crc32"]:
                raise DamagedCheckpoint(f"{path} was changed after it was written: its checksum differs.")


def newest_valid(folder: Path, files: Collection[str] | None = None) -> Checkpoint | None:
    """Return the newest checkpoint that passes `verify`, with a warning for each newer one that does not.

    None means that there never was a checkpoint. When there are some and all are damaged, that is the user's to decide:
    UserError.
    """
    found, damaged = _survey(folder)
    for reason in damaged:
        logger.warning("Not used: %s", reason)
    for checkpoint in reversed(found):
        try:
            verify(checkpoint, files)
        except DamagedCheckpoint as reason:
            logger.warning("Not used, the checkpoint before it is tried: %s", reason)
            damaged.append(reason)
        else:
            return checkpoint
    if damaged:
        raise UserError(
            f"No checkpoint in {folder} can be used. " + " ".join(map(str, damaged)),
            cure="To start over in a new folder beside this run, add resume=never.",
        )
    return None


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights on the CPU under transformers' names; tied names share one tensor."""
    path, weights = checkpoint.path / WEIGHTS, _load_tensors(checkpoint, WEIGHTS)
    with _named(path):
        aliases = checkpoint.manifest.get("aliases")
        if aliases is None:  # before the manifest had them, they were in the header
            with safe_open(path, "pt") as file:
                aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
        return weights | {name: weights[kept] for name, kept in aliases.items()}


def load_names(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the weights that a checkpoint holds, tied ones once, in however many files."""
    names: dict[str, None] = {}
    for path in checkpoint.holding(WEIGHTS):
        with _named(path), safe_open(path, "pt") as file:
            names |= dict.fromkeys(file.keys())
    return list(names)


def load_trainer(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the trainer's state with its tensors in their places, on the CPU; tied ones are one tensor."""
    tree = load_tree(checkpoint)
    with _named(checkpoint.path / TRAINER):
        merged: dict[str, Any] = join(tree, _load_tensors(checkpoint, TRAINER_TENSORS))
    return merged


def load_tree(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the trainer's state, with {"__tensor__": name} in the place of each tensor."""
    return _load_tree(checkpoint.path / TRAINER)


def load_rng(checkpoint: Checkpoint, rank: int) -> dict[str, Any] | None:
    """Return what `write` was given for this rank, or None where the checkpoint was made with fewer ranks."""
    name = f"rng-rank{rank}.pt"
    return _load_tree(checkpoint.path / name) if name in checkpoint.manifest["files"] else None


def checksum(path: Path) -> str:
    """CRC-32 of a file's content: it finds every flipped bit and burst up to 32 bits, at the speed of memory."""
    value = 0
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(buffer[:count], value)
    return f"{value:08x}"


def _load_tensors(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """Like safetensors' load_file, but each tensor owns its memory: a mapped file may be deleted by retention."""
    path, files = checkpoint.path / name, checkpoint.holding(name)
    for file in files:
        with _named(file):
            _size(file)
    with _named(path):
        if files != [path]:
            return shards.whole(files)
        with safe_open(path, "pt") as opened:
            return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (it has no iterator)


def _load_tree(path: Path) -> dict[str, Any]:
    with _named(path):
        _size(path)
        tree: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return tree


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever reading a file raises into DamagedCheckpoint: what it holds may come from anybody."""
    try:
        yield
    except DamagedCheckpoint:
        raise
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path} is missing.") from None
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DamagedCheckpoint(f"{path} cannot be read ({reason}).") from error


def _size(path: Path) -> int:
    """Return the size of a plain file. Raises OSError for what would not end: a pipe, a device."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a file")
    return found.st_size


def _survey(folder: Path) -> tuple[list[Checkpoint], list[DamagedCheckpoint]]:
    """Split the checkpoint folders in `folder` into those with an intact manifest, oldest first, and the others."""
    found: list[Checkpoint] = []
    damaged: list[DamagedCheckpoint] = []
    for path in sorted(folder.glob("step-*")) if folder.is_dir() else []:
        if not FOLDER.fullmatch(path.name):
            continue
        try:
            found.append(open_checkpoint(path))
        except DamagedCheckpoint as reason:
            damaged.append(reason)
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.sequence)), damaged
