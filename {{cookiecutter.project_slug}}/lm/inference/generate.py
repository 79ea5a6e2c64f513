"""Text from a model, token by token, with transformers' own key-value cache: what generate.py and samples show."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.console import say
from lm.data.tokenizer import end_of_text
from lm.inference.load import device_of, load, refuse_unless_finite


def generate(
    path: str, prompt: str | None, max_tokens: int, temperature: float, top_k: int, seed: int, trust: Sequence[str] = ()
) -> None:
    """Print `prompt` (None: that of the run's data) and its continuation as it is made; on stderr what made it."""
    trained = load(path, trust=trust)
    prompt = trained.cfg.data.get("prompt", "") if prompt is None else prompt
    start = trained.tokenizer.encode(prompt, add_special_tokens=False).ids
    if len(start) + max_tokens > trained.context:
        say(f"  slow: beyond {trained.context:,} tokens the older half is forgotten and the newer half read again")
    ids = sample(
        trained.model,
        start,
        max_tokens=max_tokens,
        context=trained.context,
        temperature=temperature,
        top_k=top_k or None,
        seed=seed,
        stop=end_of_text(trained.tokenizer, trained.model),
    )
    began, made = time.perf_counter(), list[int]()
    sys.stdout.write(prompt)
    for piece in pieces(trained.tokenizer, (made.append(token) or token for token in ids)):  # type: ignore[func-returns-value]
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    seconds = time.perf_counter() - began
    say(f"{len(made):,} tokens in {seconds:.1f} s, {len(made) / max(seconds, 1e-9):,.0f} per second")


@torch.no_grad()
def sample(
    model: nn.Module,
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

    Temperature 0 takes the most likely token. When the context is full, the cache is rebuilt from its newer half; a
    model that is not of transformers has none, and reads all of the context for each token. Draws from a generator of
    its own, so that sampling during training does not disturb it.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = prompt[-(context - 1) :] or [stop or 0]  # a text begins where another has ended
    pending, cache, device = tokens, None, device_of(model)
    for _ in range(max_tokens):
        if len(tokens) >= context:
            tokens = tokens[-(context // 2) :]
            pending, cache = tokens, None
        if isinstance(model, PreTrainedModel):
            output = model(input_ids=torch.tensor([pending], device=device), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
        else:
            output = model(input_ids=torch.tensor([tokens], device=device))
        logits = output if isinstance(output, Tensor) else output.logits
        token = choose(logits[0, -1].float().cpu(), temperature, top_k, generator)
        if token == stop:
            return
        yield token
        tokens = [*tokens, token]
        pending = [token]


def choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Return one index of `logits` (V), drawn from the `top_k` largest at this temperature.

    Raises UserError where the logits are not finite.
    """
    refuse_unless_finite(logits)
    if temperature == 0:
        return int(logits.argmax())
    if top_k and top_k < len(logits):
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
    model: nn.Module, tokenizer: Tokenizer, prompt: str, *, max_tokens: int, context: int, **how: Any
) -> str:
    """Return `prompt` and what the model says next, with every module put back into the mode it was in. `how` is
    handed on to `sample`."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        tokens = tokenizer.encode(prompt, add_special_tokens=False).ids
        stop = end_of_text(tokenizer, model)
        ids = sample(model, tokens, max_tokens=max_tokens, context=context, stop=stop, **how)
        return prompt + "".join(pieces(tokenizer, ids))
    finally:
        for module in training:
            module.training = True
