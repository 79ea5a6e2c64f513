"""Optimizers and schedules that ship: each resumes bit for bit, and each parameter learns as its role says."""

import contextlib
import copy
import math

import pytest
import torch
from exactness import assert_same, newest
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.checkpoint import read
from harness.config.compose import choices
from hooks import PowerCut
from lm.optim.groups import build_optimizer, parameter_groups, roles
from lm.optim.muon import Muon
from lm.optim.schedules import linear, wsd

RUN = ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "logger=csv",
       "+model.config.attention_dropout=0.2", "model.attention=eager", "trainer.val_check_interval=4")  # fmt: skip


def model(*, tied: bool = True) -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=32, tie_word_embeddings=tied, **shape))


@pytest.mark.parametrize("overrides", [("optimizer=muon",), ("optimizer=sgd", "scheduler=wsd"), ("scheduler=linear",)])
def test_killed_and_resumed_equals_uninterrupted(train, overrides: tuple[str, ...]) -> None:
    reference = train(*RUN, *overrides, "run.name=reference")
    with contextlib.suppress(PowerCut):
        train(*RUN, *overrides, "run.name=cut", "+callbacks.cut={_target_:hooks.CutAt,step:3,hook:batch_end}")
    assert_same(train(*RUN, *overrides, "run.name=cut"), reference)


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_a_step_that_is_skipped_leaves_no_trace(train, optimizer: str) -> None:
    """Every gradient is too long, from the first: neither weights nor moments may move."""
    never = ("callbacks.nan_guard.skip_above=1e-9", "callbacks.nan_guard.patience=99", "callbacks.samples=null")
    folder = train(f"optimizer={optimizer}", *never, "trainer.max_steps=3", "checkpoint.every_n_steps=1",
                   "trainer.limit_val_batches=0", "run.name=skipped", "checkpoint.keep_last=9")  # fmt: skip
    first, *_, last = read.checkpoints(folder / "checkpoints")
    for name, tensor in read.load_weights(first).items():
        assert torch.equal(tensor, read.load_weights(last)[name]), name
    moments = read.load_trainer(newest(folder))["optimizer_states"][0]["state"].values()
    assert all(not value.any() for state in moments for value in state.values() if isinstance(value, torch.Tensor))


def test_every_parameter_has_a_role() -> None:
    tied, untied = roles(model()), roles(model(tied=False))
    assert tied["model.embed_tokens.weight"] == untied["model.embed_tokens.weight"] == "embedding"
    assert untied["lm_head.weight"] == "head" and "lm_head.weight" not in tied
    assert tied["model.layers.0.mlp.up_proj.weight"] == tied["model.layers.0.self_attn.q_proj.weight"] == "matrix"
    assert tied["model.norm.weight"] == "vector"


def test_groups_hold_each_trainable_parameter_once_with_its_name() -> None:
    network = model()
    network.model.norm.weight.requires_grad_(False)
    named = [pair for group in parameter_groups(network) for pair in group["params"]]
    wanted = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(named) == len(wanted) and all(wanted[name] is parameter for name, parameter in named)


def test_the_default_optimizer_is_grouped_as_it_always_was() -> None:
    network = model()
    optimizer = build_optimizer(lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1), network)
    matrices, vectors = optimizer.param_groups
    assert matrices["params"] == [p for p in network.parameters() if p.dim() >= 2]
    assert vectors["params"] == [p for p in network.parameters() if p.dim() < 2]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


def muon(groups: list, *, roles: dict) -> Muon:
    return Muon(groups, roles=roles, lr=0.01)


def learn(network: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    for step in range(3):
        for number, parameter in enumerate(network.parameters()):
            torch.manual_seed(100 * step + number)
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()


def test_muon_is_torchs_muon_and_torchs_adamw() -> None:
    ours, theirs = model(), model()
    learn(ours, build_optimizer(muon, ours))
    role = roles(theirs)
    of = {name: [p for n, p in theirs.named_parameters() if role[n] == name] for name in set(role.values())}
    matrices = torch.optim.Muon(of["matrix"], lr=0.01, adjust_lr_fn="match_rms_adamw")
    rest = [{"params": of["embedding"]}, {"params": of["vector"], "weight_decay": 0.0}]
    learn(theirs, matrices, torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1))
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_muon_goes_on_from_its_state() -> None:
    straight, resumed = model(), model()
    first = build_optimizer(muon, straight)
    learn(straight, first)
    resumed.load_state_dict(straight.state_dict())
    second = build_optimizer(muon, resumed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch shares the counters of steps
    learn(straight, first)
    learn(resumed, second)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_a_model_of_vectors_alone_needs_no_muon() -> None:
    optimizer = build_optimizer(muon, nn.LayerNorm(3))
    assert [type(part).__name__ for part in optimizer._parts] == ["AdamW"]


def rates(schedule, **values: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    found = schedule(optimizer, total_steps=100, warmup_steps=10, **values)
    return [found.lr_lambdas[0](step) for step in range(101)]


def test_the_line_goes_up_and_down() -> None:
    line = rates(linear)
    assert (line[0], line[5], line[10], line[55], line[100]) == (0, 0.5, 1, 0.5, 0)


def test_warm_up_stable_decay() -> None:
    found = rates(wsd, decay_share=0.2, min_lr_ratio=0.1)
    assert found[10:80] == [1.0] * 70
    assert found[90] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert found[100] == 0.1


def test_every_choice_composes(compose) -> None:
    for group in ("optimizer", "scheduler"):
        for name in choices(group):
            assert compose(f"{group}={name}")[group]["_target_"]
