"""Text from a model, token by token, with transformers' own key-value cache."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from lm.data.tokenizer import END_OF_TEXT


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompt: list[int],
    *,
    max_tokens: int,
    context: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:
    """Yield up to `max_tokens` token ids that continue `prompt`, ending before the id `stop`.

    Temperature 0 takes the most likely token. When the context is full, the cache is rebuilt from its newer half. Draws
    from a generator of its own, so that sampling during training does not disturb it.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = prompt[-(context - 1) :] or [0]
    pending, cache = tokens, None
    for _ in range(max_tokens):
        if len(tokens) >= context:
            tokens = tokens[-(context // 2) :]
            pending, cache = tokens, None
        output = model(input_ids=torch.tensor([pending], device=model.device), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = choose(output.logits[0, -1].float().cpu(), temperature, top_k, generator)
        if token == stop:
            return
        yield token
        tokens = [*tokens, token]
        pending = [token]


def choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Return one index of `logits` (V), drawn from the `top_k` largest at this temperature."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))


def pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Yield text as tokens arrive, holding back bytes that are not a whole character yet."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        if text.endswith("\ufffd"):
            continue
        yield text[len(shown) :]
        shown = text
    rest = tokenizer.decode(ids)[len(shown) :]
    if rest:
        yield rest


def continuation(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int,
    context: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
) -> str:
    """Return `prompt` and what the model says next, with every module put back into the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    how: dict[str, Any] = {
        "max_tokens": max_tokens,
        "context": context,
        "temperature": temperature,
        "top_k": top_k,
        "seed": seed,
    }
    try:
        ids = sample(model, tokenizer.encode(prompt).ids, stop=tokenizer.token_to_id(END_OF_TEXT), **how)
        return prompt + "".join(pieces(tokenizer, ids))
    finally:
        for module in training:
            module.training = True
