"""A tree of dicts, lists, numbers and tensors, and its tensors apart from the rest: each is stored in its own way."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.distributed import own_part


def split(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Move the tensors of a tree into `tensors`, and leave `{"__tensor__": name}` where each was; tied ones go once.

    Tensors go through safetensors, which writes them as they lie in memory; torch.save copies them into a zip.
    """
    return _split(tree, tensors, {}, path)


def _split(tree: Any, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], str], path: str) -> Any:
    if isinstance(tree, Tensor):
        name = path
        while name in tensors:  # the keys 1 and "1" of one dict
            name += "'"
        kept = seen.setdefault(place(tree), name) if tree.numel() else name
        tensors.setdefault(kept, tree)
        return {"__tensor__": kept}
    if isinstance(tree, Mapping):
        return {key: _split(value, tensors, seen, f"{path}/{key}".lstrip("/")) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_split(value, tensors, seen, f"{path}/{i}") for i, value in enumerate(tree))
    return tree


def join(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `split`."""
    if isinstance(tree, dict):
        if tree.keys() == {"__tensor__"}:
            return tensors[tree["__tensor__"]]
        return {key: join(value, tensors) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(join(value, tensors) for value in tree)
    return tree


def untie(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors stored once each, and {name left out: name that holds its tensor}."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in weights.items():
        if tensor.numel() and (first := seen.setdefault(place(tensor), name)) != name:
            aliases[name] = first
        else:
            kept[name] = tensor
    return kept, aliases


def place(tensor: Tensor) -> tuple[Any, ...]:
    """Two tensors with the same place are one: a weight that is tied, or a state that holds the same thing twice."""
    part = own_part(tensor)
    # An empty part has no memory of its own: two of them would look tied on this rank, and not on the others.
    place = part.data_ptr() if part.numel() else id(tensor)
    return tensor.device, place, tensor.shape, tensor.stride(), tensor.dtype
