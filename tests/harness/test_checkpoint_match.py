"""Weights load whatever was wrapped around the model that saved them, and what does not fit is a table."""

from pathlib import Path

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.checkpoint import read, write
from harness.checkpoint.contents import contents
from harness.checkpoint.match import fitted
from harness.errors import UserError
from harness.wrappers import plain

HERE = Path("somewhere")


def model(**sizes: int) -> torch.nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=32, tie_word_embeddings=True, **{**shape, **sizes}))


class Holder(torch.nn.Module):
    """DistributedDataParallel's name for what it holds, without its process group."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


def wrapped_inside(inner: torch.nn.Module) -> torch.nn.Module:
    inner.model.layers[0].mlp = checkpoint_wrapper(inner.model.layers[0].mlp)
    return inner


class Lightning(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.model = inner


WRAPPERS = {
    "plain": lambda inner: inner,
    "compile": torch.compile,
    "ddp": Holder,
    "checkpoint_wrapper": wrapped_inside,
    "lightning": Lightning,
    "all": lambda inner: Holder(torch.compile(wrapped_inside(inner))),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
@pytest.mark.parametrize("saved", WRAPPERS)
@pytest.mark.parametrize("loaded", WRAPPERS)
def test_any_wrapper_loads_into_any_other(saved: str, loaded: str) -> None:
    torch.manual_seed(0)
    source, target = WRAPPERS[saved](model()), WRAPPERS[loaded](model())
    missing = target.load_state_dict(fitted(source.state_dict(), target.state_dict(), source=HERE))
    assert not missing.missing_keys
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_table_says_all_that_does_not_fit() -> None:
    weights = dict(model().state_dict())
    weights["model.extra.weight"] = weights.pop("model.norm.weight")
    weights["model.embed_tokens.weight"] = torch.zeros(31, 16)
    with pytest.raises(UserError) as failure:
        fitted(weights, model().state_dict(), source=HERE)
    lines = str(failure.value).splitlines()
    assert lines[0] == "The weights in somewhere do not fit the model:"
    assert lines[1:4] == [
        "  missing     model.norm.weight",
        "  shape       model.embed_tokens.weight: (31, 16) in the file, (32, 16) in the model",
        "  unexpected  model.extra.weight",
    ]


def test_no_match_at_all_is_an_error_of_its_own() -> None:
    with pytest.raises(UserError, match="No weight in somewhere belongs to this model: it has w, the model has"):
        fitted({"w": torch.zeros(1)}, model().state_dict(), source=HERE)


def test_a_long_table_is_cut() -> None:
    with pytest.raises(UserError, match=r"and \d+ more"):
        fitted(model().state_dict(), model(num_hidden_layers=4).state_dict(), source=HERE)


def test_only_whole_parts_of_a_name_are_wrappers() -> None:
    assert plain("model._orig_mod.layers.0.module.w") == "model.layers.0.w"
    assert plain("submodule.w") == "submodule.w"


def test_transformers_loads_a_checkpoint_folder_as_it_is(tmp_path) -> None:
    trained = model()
    extra = {"config.json": trained.config.to_json_string()}
    checkpoint = write.write(tmp_path, contents(step=1, weights=trained.state_dict(), trainer={}, extra=extra))
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name
    assert read.load_weights(checkpoint).keys() == trained.state_dict().keys()
