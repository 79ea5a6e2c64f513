"""The sentence of every load: how many tensors of how many, what of them is trained, and what has moments already."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer


def loaded(network: nn.Module, source: str, *, tensors: int, optimizers: Iterable[Optimizer] = ()) -> str:
    """Return `Loaded 148 of 148 tensors from gpt2, 42 trainable (3.1 M of 124 M)`: all that `source` has, and what of
    the network is trained. With optimizers `, moments of 42`. Tied tensors count once."""
    parameters = list(network.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    numbers = (in_words(sum(parameter.numel() for parameter in some)) for some in (trained, parameters))
    text = f"Loaded {tensors} of {tensors} tensors from {source}, {len(trained)} trainable ({' of '.join(numbers)})"
    states = [optimizer.state for optimizer in optimizers]
    return f"{text}, moments of {sum(bool(state) for group in states for state in group.values())}" if states else text


def in_words(number: int) -> str:
    """Return a number with three digits: 124 M."""
    for size, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}" if number < 1000 * size else f"{number / size:,.0f}{letter}"
    return str(number)
