"""Packing: documents of one window do not see one another, and nothing is lost without being said."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from harness.data import layout
from harness.data.layout import Alone, Apart, BestFit, Windows
from harness.errors import UserError
from harness.sequences import refuse_leaks
from lm.batch import NO_LABEL, logits_of
from lm.data.datamodule import collate
from lm.data.windows import Rows
from lm.fit import build_data
from lm.models.build import build_model, model_config
from lm.module import loss_sums

KERNELS = ("eager", "sdpa", "sdpa_one_key")
SHAPES = ("transformers.GPT2Config", "transformers.Qwen3Config")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[int]], Path]:
    folder = tmp_path_factory.mktemp("ends")

    def write(sizes: list[int]) -> Path:
        np.cumsum(sizes, dtype=np.int64).tofile(folder / "ends.bin")
        return folder / "ends.bin"

    return write


def rows(ends: Path, sizes: list[int], chosen: layout.Layout) -> Rows:
    """Token n is n, so that a label says where it is from."""
    file = ends.with_name("tokens.bin")
    np.arange(sum(sizes), dtype="uint16").tofile(file)
    return Rows(file, "uint16", chosen)


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(SIZES, st.integers(2, 16))
def test_every_token_but_the_first_of_a_document_is_predicted_once(ends, sizes: list[int], length: int) -> None:
    file = ends(sizes)
    starts = {0, *np.cumsum(sizes).tolist()}
    for chosen in (Apart(file, sum(sizes), length, keep_last=True), BestFit(file, length)):
        seen: list[int] = []
        for row in (rows(file, sizes, chosen)[index] for index in range(len(chosen))):
            labels, positions = row["labels"], row["position_ids"]
            seen += labels[1:][labels[1:] != NO_LABEL].tolist()
            assert len(labels) == len(positions) == length
            # A label follows, in its row, the token before it in its document.
            for at in (labels != NO_LABEL).nonzero().flatten().tolist():
                assert row["input_ids"][at - 1] == labels[at] - 1 and positions[at] == positions[at - 1] + 1
        assert sorted(seen) == [token for token in range(sum(sizes)) if token not in starts]


@given(SIZES, st.integers(2, 16))
def test_best_fit_keeps_documents_whole_where_they_fit(ends, sizes: list[int], length: int) -> None:
    file = ends(sizes)
    chosen = BestFit(file, length)
    stretches = [stretch for index in range(len(chosen)) for stretch in chosen[index]]
    borders = np.cumsum([0, *sizes])
    for start, end in zip(borders[:-1], borders[1:], strict=True):
        assert end - start > length or (start, end) in stretches
    waste = chosen.waste()
    assert waste.cut == sum(size > length for size in sizes) and waste.lost == 0
    assert waste.padding == sum(length - sum(b - a for a, b in chosen[index]) for index in range(len(chosen)))
    # First-fit's bound: two rows that are half empty would have been one.
    assert sum(sum(b - a for a, b in chosen[index]) * 2 <= length for index in range(len(chosen))) <= 1


def test_a_buffer_bounds_what_is_placed_together(ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BUFFER", 4)
    chosen = BestFit(ends([3, 5, 8, 1] * 5), 8)
    assert [max(end for _, end in chosen[index]) for index in range(len(chosen))][-1] > 17 * 4
    assert sorted(s for index in range(len(chosen)) for s in chosen[index])[:2] == [(0, 3), (3, 8)]


def test_what_is_cut_and_padded_is_counted(ends) -> None:
    assert Alone(ends([3, 20, 8]), 8).waste() == layout.Waste(3, 3, 1, 12, 5)
    assert BestFit(ends([3, 20, 5]), 8).waste() == layout.Waste(3, 4, 1, 0, 4 * 8 - 30)
    assert Windows(20, 8).waste() is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_changed_token_of_one_document_leaves_the_other_as_it_was(
    compose: Callable[..., DictConfig], ends, kernel: str, shape: str
) -> None:
    model = small(compose, kernel, shape)
    sizes = [20, 17, 16, 5]
    row = rows(ends(sizes), sizes, BestFit(ends(sizes), 64))[0]
    a, b, *_ = BestFit(ends(sizes), 64)[0]
    where = slice(a[1] - a[0], a[1] - a[0] + b[1] - b[0])  # the second document in the row
    changed = {name: tensor.clone() for name, tensor in row.items()}
    changed["input_ids"][7] += 1
    first, second = (logits_and_gradients(model, batch, where) for batch in (row, changed))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for batch in (row, changed):
        batch.pop("position_ids")
    leaky = [logits_and_gradients(model, batch, where)[0] for batch in (row, changed)]
    assert not torch.equal(*leaky), "the test would not notice a leak"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what transformers and torch call for it
def test_flex_attention_keeps_documents_apart_too(compose: Callable[..., DictConfig], ends) -> None:
    """Forward: its backward pass is for GPUs alone, and transformers' GPT-2 has none of it."""
    model, sizes = small(compose, "flex_attention", "transformers.Qwen3Config"), [20, 17, 16, 5]
    row = rows(ends(sizes), sizes, BestFit(ends(sizes), 64))[0]
    a, b, *_ = BestFit(ends(sizes), 64)[0]
    where = slice(a[1] - a[0], a[1] - a[0] + b[1] - b[0])
    changed = {name: tensor.clone() for name, tensor in row.items()}
    changed["input_ids"][7] += 1
    with torch.no_grad():
        for kept in (True, False):
            first, second = (logits_of(model, collate([batch], 2))[0, where] for batch in (row, changed))
            assert torch.equal(first, second) is kept, "or the test would not notice a leak"
            for batch in (row, changed):
                batch.pop("position_ids", None)


def small(compose: Callable[..., DictConfig], kernel: str, shape: str = SHAPES[0]):
    torch.manual_seed(0)
    cfg = compose(f"model.config._target_={shape}", "model.config.max_position_embeddings=64")
    return build_model(cfg.model, model_config(cfg.model), attention=kernel).eval()


def logits_and_gradients(model: torch.nn.Module, row: dict[str, torch.Tensor], where: slice) -> list[torch.Tensor]:
    """Of the loss of one document: its logits, and the gradient of every parameter."""
    batch = collate([row], 2)  # and a row of filling
    labels = torch.full_like(batch["labels"], NO_LABEL)
    labels[0, where] = batch["labels"][0, where]
    model.zero_grad()
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits
    loss_sums(logits, labels)[0].backward()
    return [logits[0, where].detach(), *(p.grad.clone() for p in model.parameters())]


def test_a_document_in_a_window_has_the_logits_that_it_has_alone(compose: Callable[..., DictConfig], ends) -> None:
    model = small(compose, "sdpa", SHAPES[1])
    sizes = [9, 30]
    row = rows(ends(sizes), sizes, Apart(ends(sizes), 39, 39, keep_last=True))[0]
    with torch.no_grad():
        packed = model(input_ids=row["input_ids"][None], position_ids=row["position_ids"][None], use_cache=False).logits
        alone = model(input_ids=row["input_ids"][None, 9:], use_cache=False).logits
    torch.testing.assert_close(packed[:, 9:], alone)


class Sees(torch.nn.Module):
    """Sees everything before; takes positions and does not read them."""

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return input_ids.cumsum(1)[..., None] * torch.ones(300)


def test_a_model_that_mixes_documents_is_refused(compose: Callable[..., DictConfig]) -> None:
    def look(model: torch.nn.Module) -> None:
        refuse_leaks(model, functools.partial(logits_of, model))

    for kernel in KERNELS:
        look(small(compose, kernel))
    with pytest.raises(UserError, match="Sees does not keep the documents .*packing=true"):
        look(Sees())
    with pytest.raises(UserError, match="Embedding does not keep"):
        look(torch.nn.Embedding(300, 4))


def test_flash_attention_is_refused_where_it_would_mix_documents(compose: Callable[..., DictConfig]) -> None:
    from harness.config.check import check

    flash = ("model.attention=flash_attention_2", "data.packing=document")
    with pytest.raises(UserError, match=r"data\.batch_size=1 and raise trainer\.accumulate"):
        check(compose(*flash, "data.batch_size=4", "trainer.accumulate_grad_batches=2"))
    check(compose(*flash, "data.batch_size=1"))


@pytest.mark.parametrize("packing", ["document", "best_fit"])
def test_such_data_train_and_resume(train: Callable[..., Path], packing: str, caplog: pytest.LogCaptureFixture) -> None:
    same = (f"data.packing={packing}", "run.name=apart", "checkpoint.every_n_steps=2", "scheduler=constant")
    train(*same, "trainer.max_steps=2")
    folder = train(*same, "trainer.max_steps=4")
    whole = train(*same[:1], "run.name=whole", *same[2:], "trainer.max_steps=4")
    one, other = ((run / "checkpoints" / "step-00000004" / "model.safetensors").read_bytes() for run in (folder, whole))
    assert one == other


def test_an_unended_document_is_refused(compose: Callable[..., DictConfig]) -> None:
    cfg = compose()
    data = build_data(cfg, model_config(cfg.model))
    ends = np.fromfile(data.prepared.ends("train"), dtype=np.int64)
    tokens = np.memmap(data.prepared.numbers("train"), dtype=data.prepared.dtype, mode="r+")
    tokens[ends[3] - 1] = 77
    tokens.flush()
    cfg = compose("data.packing=document")
    with pytest.raises(UserError, match=r"1 of \d+ documents .* do not end with token 0.*document 3"):
        build_data(cfg, model_config(cfg.model))
