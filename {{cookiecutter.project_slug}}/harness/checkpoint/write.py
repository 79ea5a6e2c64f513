"""Write a checkpoint so that it exists or does not: beside its place, fsynced, manifest last, then renamed.

Killed at any instruction, the folder that was there before is still there and whole. `read` says what a checkpoint
holds.
"""

import io
import itertools
import json
import os
import pickle
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from harness.checkpoint import shards
from harness.checkpoint.manifest import manifest_checksum
from harness.checkpoint.read import (
    MANIFEST,
    SCHEMA,
    TRAINER,
    TRAINER_TENSORS,
    WEIGHTS,
    Checkpoint,
    checkpoints,
    checksum,
    open_checkpoint,
)
from harness.checkpoint.tree import split, untie
from harness.distributed import is_split, together

T = TypeVar("T")

TEMPORARY = ".tmp-"
TRASH = ".trash-"


def write(
    folder: Path,
    *,
    step: int,
    weights: Mapping[str, Tensor],
    trainer: Mapping[str, Any],
    rng: Sequence[Mapping[str, Any]] = (),
    about: Mapping[str, Any] | None = None,
    extra: Mapping[str, str | bytes] | None = None,
) -> Checkpoint:
    """Checkpoint a model as `folder/step-<step>` and return it once it is on the disk.

    `trainer` is any tree of dicts, lists, numbers, strings and tensors; `rng` has one entry per rank; `about` (JSON)
    goes into the manifest, `extra` (name: content) are more files, such as config.json. Raises OSError when the disk
    refuses, and then leaves nothing behind.

    Where the weights are split over ranks, all ranks call it, in one folder: each writes and fsyncs what it has, and
    when all of that is on the disk rank 0 writes the manifest and renames. An OSError of one is raised on all.
    """
    sharded = any(is_split(tensor) for tensor in weights.values())
    leads = not sharded or torch.distributed.get_rank() == 0
    on_all = together if sharded else _alone
    sequence, temporary = on_all(lambda: _begin(folder, step) if leads else None)[0]  # type: ignore[misc]
    try:
        kept, aliases = untie(weights)
        tensors: dict[str, Tensor] = {}
        tree = split(trainer, tensors, "trainer" if sharded else "")  # shards have one name space for both
        groups = {TRAINER_TENSORS: tensors, WEIGHTS: kept}
        small = _small(temporary, tree, rng, extra or {}) if leads else ()
        written = itertools.chain((_sharded if sharded else _whole)(temporary, groups), small)
        flushed = on_all(lambda: _flushed(written))
        fault("after_fsync")
        manifest = {**(about or {}), "schema": SCHEMA, "step": step, "sequence": sequence, "time": time.time()}
        # Not in the header of the weights: safetensors writes two keys in any order, and equal files are to be equal.
        manifest |= {"files": {name: file for files in flushed for name, file in files.items()}, "aliases": aliases}
        target = folder / f"step-{step:08d}"
        return on_all(lambda: _publish(temporary, target, manifest) if leads else None)[0]  # type: ignore[return-value]
    except BaseException:
        if leads:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def fault(point: str) -> None:
    """Die here, as `kill -9` would, when HARNESS_FAULT is `point` or `point:3` (at the third pass). For the fault
    tests."""
    name, _, count = os.environ.get("HARNESS_FAULT", "").partition(":")
    if name != point:
        return
    passes = int(count or 1) - 1
    os.environ["HARNESS_FAULT"] = f"{name}:{passes}"
    if passes == 0:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows: SIGTERM there is TerminateProcess


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Windows has no such call: there a rename is journalled."""
    if os.name != "nt":
        fsync(folder, os.O_RDONLY)


def _alone(part: Callable[[], T]) -> list[T]:
    return [part()]


def _begin(folder: Path, step: int) -> tuple[int, Path]:
    """Return the number of the next checkpoint and a new folder to write it in."""
    sequence = 1 + max((checkpoint.sequence for checkpoint in checkpoints(folder)), default=0)
    temporary = folder / f"{TEMPORARY}step-{step:08d}-{sequence}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return sequence, temporary


# Each of these yields a file when it is written but not yet on the disk.


def _whole(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Path]:
    for name, tensors in groups.items():
        yield _save_tensors(tensors, folder / name)


def _sharded(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Path]:
    yield from shards.write(folder, {Path(name).stem: tensors for name, tensors in groups.items()})


def _small(
    folder: Path, tree: Mapping[str, Any], rng: Sequence[Mapping[str, Any]], extra: Mapping[str, str | bytes]
) -> Iterator[Path]:
    yield _save_tree(tree, folder / TRAINER)
    for rank, state in enumerate(rng):
        yield _save_tree(state, folder / f"rng-rank{rank}.pt")
    for name, content in extra.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        yield folder / name
    fault("after_write")


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> Path:
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors refuses tensors that overlap, such as a slice beside the whole: those get memory of their own.
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in ready.values())
    for name, tensor in ready.items():
        if storages[tensor.untyped_storage().data_ptr()] > 1:
            ready[name] = tensor.clone()
    try:
        save_file(ready, path, {"format": "pt"})
    except SafetensorError as error:
        # A full disk comes as this, which is no OSError and has no errno.
        if "I/O error" in str(error):
            raise OSError(str(error)) from error
        raise
    return path


def _save_tree(tree: Mapping[str, Any], path: Path) -> Path:
    """torch.save, and the only proof that weights_only=True will load it: loading it."""
    content = _dumps(dict(tree))
    try:
        _loads(content)
    except pickle.UnpicklingError:
        for key, value in tree.items():
            _refuse_unless_loadable(key, value)
        raise
    path.write_bytes(content)
    return path


def _refuse_unless_loadable(key: str, value: Any) -> None:
    try:
        _loads(_dumps(value))
    except pickle.UnpicklingError as error:
        raise TypeError(
            f"The state {key!r} cannot be in a checkpoint: use numbers, strings, lists, dicts and tensors. ({error})"
        ) from error


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _loads(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)


def _flushed(written: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Fsync every file, and return the sizes and checksums of what the system has.

    A file goes to the disk while the next is written and checksums are computed, and the small files share one commit
    of the file system's journal. One after the other the same takes half as long again.
    """
    with ThreadPoolExecutor(4) as pool:
        jobs = [(path, pool.submit(fsync, path), pool.submit(checksum, path)) for path in written]
    for _, flush, _ in jobs:
        flush.result()
    return {path.name: {"bytes": path.stat().st_size, "crc32": crc.result()} for path, _, crc in jobs}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / MANIFEST
    text = json.dumps({**manifest, "crc32": manifest_checksum(manifest)}, indent=1)
    path.write_text(text, encoding="utf-8")
    fsync(path)
    sync_folder(folder)


def _publish(temporary: Path, target: Path, manifest: dict[str, Any]) -> Checkpoint:
    _write_manifest(temporary, manifest)
    fault("before_rename")
    _put_in_place(temporary, target)
    fault("after_rename")
    return open_checkpoint(target)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename, the moment from which the checkpoint exists.

    A folder that is in the way was found damaged at the start of this process, or training went back behind it; it
    is moved aside, because a rename cannot replace a folder that holds something.
    """
    if target.exists():
        target.rename(target.with_name(f"{TRASH}{target.name}-{time.time_ns()}"))
    temporary.rename(target)
    sync_folder(target.parent)


def fsync(path: Path, flags: int = os.O_RDWR) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
