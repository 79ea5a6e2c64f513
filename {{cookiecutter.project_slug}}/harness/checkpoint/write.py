"""Write a checkpoint so that it exists or does not: beside its place, fsynced, manifest last, then renamed.

Killed at any instruction, the folder that was there before is still there and whole. `read` says what a checkpoint
holds.
"""

import itertools
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from harness.checkpoint import shards
from harness.checkpoint.contents import Contents, refuse_what_could_not_be_loaded
from harness.checkpoint.finite import first_non_finite
from harness.checkpoint.manifest import manifest_checksum
from harness.checkpoint.read import MANIFEST, SCHEMA, Checkpoint, checkpoints, checksum, open_checkpoint
from harness.distributed import together

T = TypeVar("T")

TEMPORARY = ".tmp-"
TRASH = ".trash-"


def write(folder: Path, contents: Contents) -> Checkpoint:
    """Checkpoint `contents` as `folder/step-<step>` and return it once it is on the disk.

    Raises OSError when the disk refuses, TypeError for a state that could not be loaded again, and then leaves nothing.

    Where the weights are split over ranks, all ranks call it, in one folder: each writes and fsyncs what it has, and
    when all of that is on the disk rank 0 writes the manifest and renames. An OSError of one is raised on all.
    """
    step, leads = contents.step, contents.leads
    on_all = together if contents.sharded else _alone
    sequence, temporary = on_all(lambda: _begin(folder, step) if leads else None)[0]  # type: ignore[misc]
    try:
        refuse_what_could_not_be_loaded(contents)
        bad = next(filter(None, on_all(lambda: first_non_finite(contents.states))), None)  # each sees what it holds
        tensors = (_sharded if contents.sharded else _whole)(temporary, contents.tensors)
        written = itertools.chain(tensors, _small(temporary, contents.files) if leads else ())
        flushed = on_all(lambda: _flushed(written))
        fault("after_fsync")
        manifest = {**contents.about, "schema": SCHEMA, "step": step, "sequence": sequence, "time": time.time()}
        manifest |= {"files": {name: file for files in flushed for name, file in files.items()}, "not_finite": bad}
        if bad:
            manifest["score"] = None  # it is no better than others
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


def _small(folder: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
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


def _flushed(written: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Fsync every file, and return the sizes and checksums of what the system has.

    A file goes to the disk while the next is written and checksums are computed, and the small files share one commit
    of the file system's journal. One after the other the same takes half as long again.
    """
    jobs = []
    with ThreadPoolExecutor(4) as pool:
        for path in written:
            fault("in_write")
            jobs.append((path, pool.submit(fsync, path), pool.submit(checksum, path)))
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
    fault("in_fsync")
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
