"""Text from a model, token by token, with transformers' own key-value cache: what generate.py and samples show."""

import inspect
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.checkpoint.finite import refuse_unless_finite
from harness.console import converse, pieces, say, tell
from harness.data.files import text_lines
from lm.data.tokenizer import end_of_text
from lm.inference.load import Trained, device_of, load

ROWS = 16  # prompts that are continued at a time


def generate(
    path: str,
    prompt: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    prompts: str | None = None,
    chat: bool = False,
    trust: Sequence[str] = (),
) -> None:
    """Print `prompt` (None: that of the run's data) and its continuation as it is made, or those of the lines of the
    file `prompts`, or answer what is typed; on stderr what made it."""
    lines = None if prompts is None else text_lines(Path(prompts))
    trained = load(path, trust=trust)
    if not isinstance(trained.model, PreTrainedModel):
        say(f"  slow: no key-value cache, since {type(trained.model).__name__} is not a model of transformers")
    how: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k or None, "seed": seed}
    if chat:
        from lm.inference.chat import Talk  # which is made of what is below

        converse(Talk(trained, **how).reply)
        return
    began = time.perf_counter()
    made = continue_one(trained, prompt, how) if lines is None else continue_lines(trained, lines, how)
    seconds = time.perf_counter() - began
    say(f"{made:,} tokens in {seconds:.1f} s, {made / max(seconds, 1e-9):,.0f} per second")


def continue_one(trained: Trained, prompt: str | None, how: dict[str, Any]) -> int:
    """Print a text as it is made; return how many tokens were."""
    prompt = trained.cfg.data.get("prompt", "") if prompt is None else prompt
    start = trained.tokenizer.encode(prompt, add_special_tokens=False).ids
    if len(start) + how["max_tokens"] > trained.context:
        say(f"  slow: beyond {trained.context:,} tokens the older half is forgotten and the newer half read again")
    stop, made = end_of_text(trained.tokenizer, trained.model), list[int]()
    ids = sample(trained.model, start, context=trained.context, stop=stop, **how)
    counted = (made.append(token) or token for token in ids)  # type: ignore[func-returns-value]
    tell(prompt, pieces(trained.tokenizer.decode, counted))
    return len(made)


def continue_lines(trained: Trained, prompts: list[str], how: dict[str, Any]) -> int:
    """Print a JSON object a prompt; return how many tokens were made."""
    stop, total = end_of_text(trained.tokenizer, trained.model), 0
    size = ROWS if isinstance(trained.model, PreTrainedModel) else 1
    for first in range(0, len(prompts), size):
        batch = prompts[first:][:size]
        starts = [trained.tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in batch]
        columns = list(sample_rows(trained.model, starts, context=trained.context, stop=stop, **how))
        for i, prompt in enumerate(batch):
            ids = [token for column in columns if (token := column[i]) is not None]
            text = prompt + "".join(pieces(trained.tokenizer.decode, ids))
            print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False), flush=True)
            total += len(ids)
    return total


def sample(model: nn.Module, prompt: list[int], **how: Any) -> Iterator[int]:
    """Yield token ids that continue one prompt; `how` is that of `sample_rows`."""
    for (token,) in sample_rows(model, [prompt], **how):
        yield cast(int, token)  # it ends with its only row


@torch.no_grad()
def sample_rows(
    model: nn.Module,
    prompts: list[list[int]],
    *,
    max_tokens: int,
    context: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[list[int | None]]:
    """Yield, up to `max_tokens` times, the id that continues each of `prompts`, or None where the id `stop` has come.

    A row is what it would be alone: shorter ones are padded at the left, where nobody looks. Temperature 0 takes the
    most likely token. When a row's context is full, the cache is rebuilt from its newer half; a model that is not of
    transformers has none, takes one row, and reads all of the context for each token. Draws from generators of its
    own, one a row, so that sampling during training does not disturb it.
    """
    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    rows = [prompt[-(context - 1) :] or [stop or 0] for prompt in prompts]  # a text begins where another has ended
    device, cache, mask = device_of(model), None, torch.empty(0)
    made: list[int | None] = [0] * len(rows)
    for _ in range(max_tokens):
        for i, row in enumerate(rows):
            if len(row) >= context:
                rows[i], cache = row[-(context // 2) :], None
        if cache is None:
            width = max(map(len, rows))
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        pending = [[0] * (mask.shape[1] - len(row)) + row if cache is None else row[-1:] for row in rows]
        ids = torch.tensor(pending, device=device)
        if isinstance(model, PreTrainedModel):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, **padded(model, mask, ids.shape[1]))
            cache = output.past_key_values
            mask = F.pad(mask, (0, 1), value=1)
        else:
            output = model(input_ids=ids)
        logits = (output if isinstance(output, Tensor) else output.logits)[:, -1].float().cpu()
        for i, row in enumerate(rows):
            if made[i] is None:
                continue
            token = choose(logits[i], temperature, top_k, generators[i])
            made[i] = None if token == stop else token
            rows[i] = [*row, token]
        if made == [None] * len(rows):
            return
        yield list(made)


def padded(model: nn.Module, mask: Tensor, length: int) -> dict[str, Tensor]:
    """Return what tells a model which of its positions are padding, where some are, `mask` (B, so far) being 0 there.
    Its input are the last `length` positions."""
    if mask.all():
        return {}
    positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -length:]}
    takes = inspect.signature(model.forward).parameters
    return {"attention_mask": mask, **({} if "position_ids" not in takes else positions)}


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
        return prompt + "".join(pieces(tokenizer.decode, ids))
    finally:
        for module in training:
            module.training = True
