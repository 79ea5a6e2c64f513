"""What `auto` computes in: measured at the model's own kernels, kept beside the prepared data and in the run."""

import json
import logging
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from harness import fastest, probe
from harness.probe import Attention, Kernels, Setting
from harness.replay.rerun import compute_as
from harness.run import folder as run_folder

PLAIN, EAGER, MEDIUM, HALF = Setting(), Setting(attention="eager"), Setting(matmul="medium"), Setting("bf16-mixed")


def test_a_setting_has_to_be_clearly_faster_than_a_safer_one() -> None:
    settings = [PLAIN, EAGER, HALF]
    assert fastest.choose(settings, {PLAIN: 1.0, EAGER: 0.96, HALF: 0.97}) == PLAIN
    assert fastest.choose(settings, {PLAIN: 1.0, EAGER: 0.90, HALF: 0.88}) == EAGER
    assert fastest.choose(settings, {PLAIN: 1.0, EAGER: 0.90, HALF: 0.30}) == HALF


def test_what_is_far_behind_on_a_small_piece_never_gets_the_whole() -> None:
    asked: list[tuple[Setting, int]] = []

    def work(setting: Setting, size: int) -> None:
        asked.append((setting, size))
        time.sleep(0.05 if setting == HALF else 0.0)

    found = probe.race([PLAIN, HALF], work, [1, 4, 16], seconds=600.0, device="cpu")
    assert found[HALF] > fastest.FASTER * found[PLAIN]
    assert {size for setting, size in asked if setting == HALF} == {1}
    assert (PLAIN, 16) in asked


def test_time_ends_a_probe_not_the_number_of_its_turns() -> None:
    asked = []
    probe.race([PLAIN, HALF], lambda setting, _: asked.append(setting), [1, 4, 16], seconds=0.0, device="cpu")
    assert asked == [PLAIN, HALF]


def test_kernels_are_those_of_the_model_and_embeddings_are_not_multiplied() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(300, 8), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 300))
    assert Kernels.of(model, rows=4).products == ((1, 16, 300), (2, 8, 16))


def test_eager_is_no_candidate_where_its_scores_would_fill_the_memory() -> None:
    def attentions(positions: int) -> set[str]:
        kernels = Kernels(8 * positions, ((1, 8, 8),), Attention(12, 12, positions, 64))
        return {setting.attention for setting in fastest.candidates(kernels, "auto", "cpu")}

    assert attentions(64) == {"sdpa", "eager"}
    assert attentions(1 << 16) == {"sdpa"}


def test_a_probe_times_every_candidate_and_leaves_torch_as_it_was() -> None:
    kernels = Kernels(64, ((4, 64, 128),), Attention(2, 2, 32, 32))
    random = torch.get_rng_state()
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    settings = [*fastest.candidates(kernels, "auto", "cpu")]
    found = probe.seconds_of(settings, kernels, "cpu", seconds=0.05)
    assert list(found) == settings
    assert min(found.values()) > 0
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before
    assert torch.equal(torch.get_rng_state(), random)  # else a run's weights would depend on the cache


def test_highest_is_exact_and_bfloat16_would_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.is_exact("highest")
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a.bfloat16(), b.bfloat16()).to(a.dtype)
                        if a.dtype == torch.float32 else product(a, b))  # fmt: skip
    assert not probe.is_exact("medium")


def test_a_second_run_takes_what_is_on_file(train, corpus: Path) -> None:
    first = json.loads((train() / "run.json").read_text(encoding="utf-8"))["fastest_on_cpu"]
    file = corpus.parent / "prepared" / fastest.CACHE
    before = file.read_text(encoding="utf-8")
    table = json.loads(before)
    (key,) = [key for key, entry in table.items() if entry == first]
    assert f"{torch.get_num_threads()} threads" in key
    assert torch.__version__ in key
    try:
        table[key]["setting"]["attention"] = "eager"
        file.write_text(json.dumps(table), encoding="utf-8")
        again = json.loads((train("run.name=again") / "run.json").read_text(encoding="utf-8"))
        assert "eager attention" in again["attempts"][0]["picks"]
    finally:
        file.write_text(before, encoding="utf-8")


def test_a_resumed_run_and_a_replay_keep_what_it_has_also_on_another_machine(
    train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("trainer.precision=auto", "run.name=kept")
    run = train(*words, "trainer.max_steps=2")
    diary = run_folder.read(run)
    elsewhere = {"precision": "bf16-mixed", "matmul": "highest", "attention": "eager", "threads": 1}
    diary["fastest_on_cpu"] = {"setting": elsewhere, "machine": "another", "milliseconds": {}}
    (run / "run.json").write_text(json.dumps(diary), encoding="utf-8")
    threads = torch.get_num_threads()
    with caplog.at_level(logging.INFO):
        assert train(*words, "trainer.max_steps=4") == run
    assert torch.get_num_threads() == threads
    picks = run_folder.read(run)["attempts"][1]["picks"]
    assert picks[1].startswith("bf16-mixed")
    assert picks[2] == "eager attention"
    assert "As in run.json, though it was measured elsewhere (another): bf16-mixed" in caplog.text
    compute_as(run, tmp_path / "replay")
    assert run_folder.read(tmp_path / "replay")["fastest_on_cpu"]["setting"] == elsewhere
