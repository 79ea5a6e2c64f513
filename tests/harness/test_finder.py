import math
import random

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from harness.nan.finder import FirstNonFinite, describe
from lm.module import loss_sums as summed_loss


def llama(attention: str = "sdpa") -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, attn_implementation=attention, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def run(model: nn.Module, finder: FirstNonFinite, loss_factor: float = 1.0) -> None:
    ids = torch.randint(32, (2, 8), generator=torch.Generator().manual_seed(1))
    with finder:
        loss = summed_loss(model(input_ids=ids).logits, ids)[0] * loss_factor
        finder.check_loss(loss)
        loss.backward()


def search(model: nn.Module, loss_factor: float = 1.0) -> FirstNonFinite:
    finder = FirstNonFinite(model)
    run(model, finder, loss_factor)
    return finder


def break_output(module: nn.Module) -> None:
    def hook(_module: nn.Module, _args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        first, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        damage = torch.zeros_like(first)
        damage.view(-1)[0] = math.nan
        return first + damage if rest is None else (first + damage, *rest)

    module.register_forward_hook(hook)


def break_weight_gradient(module: nn.Module) -> None:
    module.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), math.inf))


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, gradient):
        return gradient * math.nan


def break_input_gradient(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda x: forward(Backward.apply(x))


LEAVES = [name for name, module in llama().named_modules() if name and not list(module.children())]
WITH_WEIGHT = [name for name in LEAVES if hasattr(llama().get_submodule(name), "weight")]


def test_a_healthy_model_has_no_culprit():
    assert search(llama()).found is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LEAVES)
def test_the_first_bad_output_is_named(name, attention):
    model = llama(attention)
    break_output(model.get_submodule(name))
    found = search(model).found
    assert (found.module, found.value, found.note) == (name, "output", "")
    assert found.statistics["value"]["nan"] == 1


@pytest.mark.parametrize("name", WITH_WEIGHT)
def test_a_bad_gradient_of_one_weight_is_named(name):
    model = llama()
    break_weight_gradient(model.get_submodule(name))
    found = search(model).found
    assert (found.module, found.value) == (name, "gradient of weight")


@pytest.mark.parametrize("name", [name for name in WITH_WEIGHT if "embed" not in name])
def test_a_module_that_spoils_the_gradient_passing_through_is_named(name):
    model = llama()
    break_input_gradient(model.get_submodule(name))
    found = search(model).found
    assert (found.module, found.value) == (name, "gradient")


def test_the_module_is_blamed_for_what_happens_between_its_children(monkeypatch):
    """A row without any key is nan under a kernel that writes -inf: the first module to see it is o_proj."""
    model = llama("eager")
    from transformers.models.llama import modeling_llama

    real = modeling_llama.eager_attention_forward

    def naive(module, query, key, value, attention_mask, **kwargs):
        mask = attention_mask.clone()
        if module.layer_idx == 1:
            mask[:, :, 3, :] = -math.inf
        return real(module, query, key, value, mask, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", naive)
    found = search(model).found
    assert found.module == "model.layers.1.self_attn"
    assert found.note == "in its own operations, before o_proj"


def test_a_bad_loss_is_not_blamed_on_a_module():
    found = search(llama(), math.nan).found
    assert (found.module, found.value) == ("loss", "value")


def test_a_loss_that_is_finite_with_a_bad_gradient_is_named():
    model = llama()
    finder = FirstNonFinite(model)
    ids = torch.zeros(1, 4, dtype=torch.long)
    with finder:
        Backward.apply(model(input_ids=ids).logits).sum().backward()
    assert (finder.found.module, finder.found.value) == ("loss", "gradient")


def test_a_bad_weight_shows_in_the_statistics():
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.inf
    found = search(model).found
    assert found.module == "model.layers.0.mlp.up_proj"
    assert found.statistics["weight"]["inf"] == 1 and found.statistics["input"]["nan"] == 0


def test_a_model_given_nan_is_told_so():
    model = llama()
    finder = FirstNonFinite(model)
    with finder:
        model(inputs_embeds=torch.full((1, 4, 16), math.nan))
    assert finder.found.module == "input"


def test_gradient_checkpointing_changes_no_answer():
    rng = random.Random(0)
    for name in rng.sample(LEAVES, 6):
        model = llama()
        model.activation_checkpointing_enable({"use_reentrant": False})
        break_output(model.get_submodule(name))
        assert search(model).found.module == name


def test_looking_changes_no_value_and_leaves_no_hook():
    plain, watched = llama(), llama()
    ids = torch.randint(32, (2, 8), generator=torch.Generator().manual_seed(1))
    summed_loss(plain(input_ids=ids).logits, ids)[0].backward()
    search(watched)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for module in watched.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert not any(parameter._backward_hooks for parameter in watched.parameters())


def test_a_debugger_is_called_once_inside_the_module():
    model = llama()
    break_output(model.model.layers[0].mlp.act_fn)
    calls = []
    run(model, FirstNonFinite(model, on_found=calls.append))
    assert [finding.module for finding in calls] == ["model.layers.0.mlp.act_fn"]


def test_description_ignores_what_is_not_finite():
    text = describe(torch.tensor([1.0, 3.0, math.nan, -math.inf]))
    assert text == {
        "shape": [4],
        "dtype": "float32",
        "nan": 1,
        "inf": 1,
        "min": 1.0,
        "max": 3.0,
        "mean": 2.0,
        "std": 1.0,
    }
