"""A copy of what a checkpoint will hold, so that training goes on while it is written.

One copy in the memory of the host, allocated at the first checkpoint and used again by the others. From a GPU it goes
into pinned memory on a stream of its own, beside the computation: the device waits for it before weights change next,
the host when it is written.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map_only

from harness.checkpoint.contents import Contents
from harness.checkpoint.tree import place
from harness.checkpoint.write import fault


class Snapshot:
    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}  # by file and name
        self._stream: Any = None
        self._copied: Any = None  # a CUDA event
        self._expected: Any = None  # the same, until the device was told to wait for it

    def take(self, contents: Contents) -> Contents:
        """Return `contents` with copies of its tensors, which are there when `finish` has returned.

        What `contents.states` names may change after `before_change`, all else at once.
        """
        tensors = {(file, name): tensor for file, group in contents.tensors.items() for name, tensor in group.items()}
        places = {key: place(tensor) for key, tensor in tensors.items()}
        self._kept = {key: _room(tensor, self._kept.get(key)) for key, tensor in tensors.items()}
        steady = {place(tensor) for tensor in tree_iter(contents.states) if isinstance(tensor, Tensor)}
        self._copy({key: tensor for key, tensor in tensors.items() if places[key] not in steady})
        device = next((tensor.device for tensor in tensors.values() if tensor.is_cuda), None)
        if device is not None:
            self._stream = self._stream or torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):  # None is no other stream
            self._copy({key: tensor for key, tensor in tensors.items() if places[key] in steady})
        self._copied = self._expected = self._stream and self._stream.record_event()
        copies = {places[key]: copy for key, copy in self._kept.items()}
        return replace(
            contents,
            tensors={
                file: {name: self._kept[file, name] for name in group} for file, group in contents.tensors.items()
            },
            states=tree_map_only(Tensor, lambda tensor: copies.get(place(tensor)), contents.states),
        )

    def before_change(self) -> None:
        """Let the device change nothing that is still being copied. The host does not wait."""
        if self._expected is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._expected)
            self._expected = None

    def finish(self) -> None:
        """Wait until all is copied."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, tensors: dict[tuple[str, str], Tensor]) -> None:
        for key, tensor in tensors.items():
            fault("in_copy")
            self._kept[key].copy_(tensor.detach(), non_blocking=tensor.is_cuda)


def _room(tensor: Tensor, kept: Tensor | None) -> Tensor:
    """Return memory for a copy: what was `kept` for the last one, if it fits."""
    if kept is not None and kept.shape == tensor.shape and kept.dtype == tensor.dtype:
        return kept
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
