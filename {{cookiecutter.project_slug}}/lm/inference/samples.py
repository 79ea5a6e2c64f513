"""Let the model say something while it trains: what tells most about a language model is its text.

Costs one pass over the weights for each token. Where and when it is shown is harness/callbacks/samples.py.
"""

from collections.abc import Sequence
from typing import Any

from harness.callbacks.samples import PeriodicSamples
from lm.inference.generate import continuation


class Samples(PeriodicSamples):
    """Continues `prompts` as often as Periodic says (`when`), always with the same `seed`. An empty prompt begins a
    document."""

    def __init__(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int = 48,
        temperature: float = 0.8,
        top_k: int | None = 50,
        seed: int = 0,
        **when: Any,
    ) -> None:
        super().__init__(**when)
        self.prompts = list(dict.fromkeys(prompts))
        self.how = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "seed": seed}

    def texts(self, trainer: Any, module: Any) -> dict[str, str]:
        how = {"context": trainer.datamodule.context, **self.how}
        return {prompt: continuation(module.model, module.tokenizer, prompt, **how) for prompt in self.prompts}
