import math

import pytest
import torch
import torch.nn.functional as F

from conftest import PROJECT
from harness.config.compose import compose
from harness.console import pieces
from harness.errors import UserError
from harness.hardware import pick
from lm.inference.generate import choose, sample
from lm.models.attention import pick_attention
from lm.models.build import build_model, context_length, count_parameters, model_config
from lm.module import loss_sums
from lm.optim.groups import parameter_groups
from lm.optim.schedules import cosine_ratio

PARAMETERS = {
    "tiny": 1_053_824,
    "14m": 13_687_296,
    "30m": 32_182_400,
    "124m": 124_439_808,  # GPT-2 small's own
    "350m": 354_823_168,
    "774m": 774_030_080,
    "1b": 1_100_048_384,  # TinyLlama's own
}
TINY = ("model=tiny", "model.config.max_position_embeddings=16")


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_a_model_has_the_parameters_of_its_name(name: str, parameters: int) -> None:
    model = compose([f"model={name}"]).model
    assert count_parameters(model, model_config(model)) == parameters


def test_every_model_is_counted() -> None:
    others = {"base", "pretrained", "lora"}
    assert {file.stem for file in (PROJECT / "conf/model").glob("*.yaml")} - others == set(PARAMETERS)


def test_the_loss_is_transformers_own() -> None:
    model = build_model(compose(TINY).model, model_config(compose(TINY).model))
    ids = torch.randint(0, 2048, (2, 16))
    labels = ids.masked_fill(torch.rand(2, 16) < 0.3, -100)
    total, valid = loss_sums(model(input_ids=ids).logits, labels)
    torch.testing.assert_close(total / valid, model(input_ids=ids, labels=labels).loss)


def test_the_loss_of_nothing_is_zero_with_zero_gradients() -> None:
    logits = torch.randn(2, 4, 8, requires_grad=True)
    only_first = torch.tensor([[3, -100, -100, -100]] * 2)  # the shift drops the first label
    total, valid = loss_sums(logits, only_first)
    (total / valid.clamp(min=1)).backward()
    assert valid == 0 and total == 0
    assert (logits.grad == 0).all()


def test_the_loss_is_weighted_by_tokens() -> None:
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[0, 1, 2], [0, 3, -100]])
    total, valid = loss_sums(logits, labels)
    assert valid == 3
    expected = [F.cross_entropy(logits[row, t], labels[row, t + 1]) for row, t in ((0, 0), (0, 1), (1, 0))]
    torch.testing.assert_close(total, torch.stack(expected).sum())


def test_decay_shrinks_matrices_only() -> None:
    model = build_model(compose(TINY).model, model_config(compose(TINY).model))
    matrices, vectors = parameter_groups(model)
    assert {parameter.dim() for _, parameter in matrices["params"]} == {2}
    assert {parameter.dim() for _, parameter in vectors["params"]} == {1}
    assert vectors["weight_decay"] == 0


def test_the_schedule_rises_to_the_peak_and_falls_to_its_last_share() -> None:
    ratios = [cosine_ratio(step, total_steps=110, warmup_steps=10, min_lr_ratio=0.1) for step in range(111)]
    assert ratios[0] == pytest.approx(1 / 11)
    assert ratios[10] == 1
    assert ratios[60] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert ratios[110] == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["tiny", "124m"])
def test_cached_generation_equals_the_whole_forward_pass(name: str) -> None:
    small = ["model.config.n_layer=2", "model.config.n_embd=32", "model.config.n_head=2", "model.config.vocab_size=300"]
    cfg = compose([f"model={name}", *(small if name == "124m" else TINY[1:])])
    config = model_config(cfg.model)
    model = build_model(cfg.model, config).eval()
    context = min(16, context_length(cfg.model, config))
    made = list(sample(model, [1, 2, 3], max_tokens=10, context=context, temperature=0))
    ids = [1, 2, 3]
    for token in made:
        assert token == int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_generation_goes_on_when_the_context_is_full() -> None:
    model = build_model(compose(TINY).model, model_config(compose(TINY).model)).eval()
    assert len(list(sample(model, list(range(40)), max_tokens=50, context=16))) == 50


def test_sampling_depends_on_its_seed_alone() -> None:
    model = build_model(compose(TINY).model, model_config(compose(TINY).model)).eval()
    before = torch.get_rng_state()
    texts = [tuple(sample(model, [5], max_tokens=12, context=16, seed=seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(before, torch.get_rng_state())


def test_top_k_keeps_the_k_largest() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    assert {choose(logits, 5.0, 2, generator) for _ in range(100)} == {1, 2}
    assert choose(logits, 0, None, generator) == 1


def test_text_is_shown_in_whole_characters() -> None:
    from lm.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a"], 257, 1)
    ids = tokenizer.encode("né€🙂!").ids
    assert len(ids) == 11  # one per byte
    shown = list(pieces(tokenizer.decode, ids))
    assert shown == ["n", "é", "€", "🙂", "!"]


def picks(*overrides: str, tokens: int = 10**6):  # noqa: ANN201
    cfg = compose(overrides)
    return pick(cfg, compile=cfg.model.compile, flops=6 * 14e6 * tokens)


def attention(picks, asked: str = "auto", context: int = 256) -> str:  # noqa: ANN001
    return pick_attention(asked, device=picks.device, precision=picks.precision, context=context, mps_fix=True)[0]


def test_what_is_asked_for_is_taken() -> None:
    asked = picks("trainer=cpu", "trainer.precision=32-true", "model.attention=sdpa", "model.compile=true")
    assert (asked.accelerator, asked.precision, asked.compile) == ("cpu", "32-true", True)
    assert attention(asked, "sdpa") == "sdpa"


def test_auto_knows_bf16_hardware_short_contexts_and_short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "cpu_name": "AMD EPYC"})
    fast = picks("trainer=cpu")
    assert (fast.precision, attention(fast)) == ("bf16-mixed", "eager")
    assert attention(fast, context=1024) == "sdpa"
    assert not picks("trainer=cpu", tokens=1000).compile
    for matmul, slow in (
        ("medium", {"avx2": True, "cpu_name": "AMD Ryzen"}),
        ("highest", {"avx512_bf16": True, "cpu_name": "Intel Xeon"}),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda slow=slow: slow)
        plain = picks("trainer=cpu")
        assert (plain.precision, attention(plain)) == ("32-true", "sdpa")
        assert torch.get_float32_matmul_precision() == matmul


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU here")
def test_a_device_that_is_not_here_is_a_sentence_and_under_a_debug_preset_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(UserError, match="no mps device"):
        picks("trainer=mps")
    with pytest.raises(UserError, match="no mps device"):
        picks("+debug=mps", "debug.strict=true")
    assert picks("+debug=mps").accelerator == "cpu"
    assert "no mps device" in caplog.text


def test_gradient_checkpointing_names_its_layers_and_changes_no_gradient(caplog: pytest.LogCaptureFixture) -> None:
    ids = torch.randint(0, 2048, (2, 16))
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        with caplog.at_level("INFO"):
            cfg = compose([*TINY, f"model.gradient_checkpointing={recompute}"]).model
            model = build_model(cfg, model_config(cfg)).train()
        loss_sums(model(input_ids=ids).logits, ids)[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    (line,) = [message for message in caplog.messages if "computed again" in message]
    assert line.endswith("4 layers: model.layers.0, model.layers.1, model.layers.2, model.layers.3")


def test_a_model_that_cannot_checkpoint_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.LlamaForCausalLM.supports_gradient_checkpointing", False)
    with pytest.raises(UserError, match="LlamaForCausalLM cannot do gradient checkpointing"):
        cfg = compose([*TINY, "model.gradient_checkpointing=true"]).model
        build_model(cfg, model_config(cfg))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.config.hidden_act=foo", "model cannot be built: KeyError: 'foo'"),
        ("model.attention=flash_attention_2", "model cannot be built: ImportError: FlashAttention2"),
    ],
)
def test_what_transformers_cannot_build_is_a_sentence(override: str, sentence: str) -> None:
    cfg = compose([*TINY, override]).model
    with pytest.raises(UserError, match=sentence):
        build_model(cfg, model_config(cfg), attention=cfg.attention.replace("auto", "eager"))
