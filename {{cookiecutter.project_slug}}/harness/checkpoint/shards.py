"""Tensors that are split over ranks: each rank writes its part, and any number of ranks, or one process, reads them.

torch.distributed.checkpoint, in files of safetensors whose headers say where in the whole a part begins. A file that
one process wrote is read in the same way: as the only part.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter


def write(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> list[Path]:
    """Write this rank's part of {group: {name: tensor}} as `folder/<group>-rank<rank>.safetensors`; return the files.

    All ranks call it with the same names, each name in one group. What all ranks hold alike is written by one of them.
    Raises OSError on every rank where the disk of one refuses.
    """
    tensors = {name: tensor for group in groups.values() for name, tensor in group.items()}
    numbers = {name: number for number, group in enumerate(groups.values(), start=1) for name in group}
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=numbers, save_distributed=True)
    try:
        state_dict_saver.save(tensors, storage_writer=writer)
    except CheckpointException as error:
        refusals = [reason for reason, _ in error.failures.values() if isinstance(reason, OSError)]
        raise (refusals[0] if refusals else error) from error
    rank, written = torch.distributed.get_rank(), []
    for number, group in enumerate(groups, start=1):
        file = folder / f"shard-{rank + 1:05}-model-{number:05}-of-{max(numbers.values()):05}.safetensors"
        if file.exists():  # a rank for which nothing is left has none
            written.append(file.rename(folder / f"{group}-rank{rank}.safetensors"))
    return written


def described(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return {name: tensor of the whole's shape and dtype, without memory} for what the files hold together."""
    known: Any = _reader(files).read_metadata().state_dict_metadata
    return {name: torch.empty(it.size, dtype=it.properties.dtype, device="meta") for name, it in known.items()}


def load(files: Sequence[Path], into: Mapping[str, Tensor]) -> None:
    """Fill tensors by their names in the files. Of one that is split over ranks, this rank reads its own part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process reads alone: nothing has to be agreed on
        state_dict_loader.load(dict(into), storage_reader=_reader(files), no_dist=True)


def whole(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return what the files hold together, on the CPU."""
    tensors = {name: torch.empty_like(like, device="cpu") for name, like in described(files).items()}
    load(files, tensors)
    return tensors


def _reader(files: Sequence[Path]) -> HuggingFaceStorageReader:
    reader = HuggingFaceStorageReader(str(files[0].parent) if files else "")
    reader.fs = _Files(files)
    return reader


class _Files(FileSystem):
    """These files alone, whatever else lies beside them: only they were compared with the manifest."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def ls(self, path: Any) -> list[str]:
        return [str(file) for file in self.files]
