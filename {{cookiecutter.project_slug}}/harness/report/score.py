"""What a summed loss says of a text: per token, as a perplexity, in bits per byte."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.errors import UserError


class Measured(NamedTuple):
    """The loss summed over the tokens of a text of so many bytes."""

    nats: float
    tokens: int
    bytes: int

    @property
    def numbers(self) -> dict[str, Any]:
        return {
            "loss": self.nats / max(1, self.tokens),
            "perplexity": math.exp(min(self.nats / max(1, self.tokens), 700)),
            # The vocabulary drops out of this one, so that models with other tokenizers can be compared.
            "bits_per_byte": self.nats / math.log(2) / max(1, self.bytes),
            "tokens": self.tokens,
            "bytes": self.bytes,
        }


def of_all(parts: Mapping[str, Measured], where: str) -> dict[str, Any]:
    """Return the numbers of all parts together and, under `sets`, of each where they have names."""
    together = Measured(*(sum(numbers) for numbers in zip(*parts.values(), strict=True)))
    if not together.tokens:
        raise UserError(f"There is no token to predict in {where}.", cure="Name more text.")
    sets = {name: part.numbers for name, part in parts.items() if name}
    return together.numbers | ({"sets": sets} if sets else {})


def show(numbers: dict[str, Any]) -> None:
    """Print what `of_all` returned."""
    line = "  {}loss {loss:.4f} nats per token, perplexity {perplexity:.2f}, {bits_per_byte:.4f} bits per byte"
    print(line.format("", **numbers))
    for name, of_set in numbers.get("sets", {}).items():
        print(line.format(f"{name}: ", **of_set))
