"""A mixture of three sets at 0.5, 0.3 and 0.2, killed twice, in one process and in two: which window is trained where
stays a pure function of the position, the weights hold at each, and the run ends as if nothing had been."""

import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from exactness import assert_same, newest
from mixtures import WEIGHTS, three_sets
from processes import Process
from step_record import STEP_RECORD

from conftest import overrides
from harness.checkpoint import read
from harness.config.compose import compose
from lm.fit import build_data
from lm.inference.evaluate import evaluate
from lm.models.build import model_config

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL, gloo")]

STEPS, BATCH = 12, 4
RUN = (f"trainer.max_steps={STEPS}", "data=mixture", f"data.batch_size={BATCH}", "data.val_fraction=0.2", "logger=csv",
       "trainer.log_every_n_steps=1", "trainer.val_check_interval=4", "checkpoint.every_n_steps=3", STEP_RECORD,
       "+model.config.attention_dropout=0.2", "model.attention=eager",
       "+callbacks.slow={_target_:hooks.Slow,seconds:0.2}")  # fmt: skip
TWO = ("trainer.devices=2", "+trainer.strategy=ddp")


@pytest.mark.parametrize("ranks", [1, 2])
def test_two_kills_change_neither_order_nor_weights(corpus: Path, tmp_path: Path, ranks: int, capsys: Any) -> None:
    base = [*overrides(corpus, tmp_path), three_sets(corpus, tmp_path), *RUN, *(TWO if ranks == 2 else ())]
    run = tmp_path / "runs" / "killed"
    for kills in (1, 2):
        process = Process(tmp_path, [*base, "run.name=killed"])
        process.until(lambda least=kills: len(read.checkpoints(run / "checkpoints")) >= least)
        parent = psutil.Process(process.popen.pid)
        for one in [*parent.children(recursive=True), parent]:
            one.kill()
        assert process.popen.wait() == -9, process.output
    last, reference = Process(tmp_path, [*base, "run.name=killed"]), Process(tmp_path, [*base, "run.name=reference"])
    assert (last.ended(), reference.ended()) == (0, 0), last.output + reference.output
    assert_same(run, tmp_path / "runs" / "reference")
    assert losses(run) == losses(tmp_path / "runs" / "reference")

    cfg = compose([*base, "run.name=killed"])
    data = build_data(cfg, model_config(cfg.model))
    expected = data.order(np.arange(STEPS * BATCH * ranks)).tolist()
    assert trained(run, ranks) == [digest(data.train_set[window]["input_ids"].numpy()) for window in expected]
    borders = np.cumsum([len(part) for part in data.train_set.datasets])
    sets = np.searchsorted(borders, expected, side="right")
    for number, weight in enumerate(WEIGHTS.values()):
        had = np.cumsum(sets == number)
        assert (np.abs(had - weight * np.arange(1, len(sets) + 1)) < 1).all(), "beyond one window of its weight"

    evaluate(str(run), None, [], as_json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["sets"]
    for name in WEIGHTS:
        assert told[name]["loss"] == pytest.approx(float(losses(run)[-1][f"val/loss/{name}"]), rel=1e-4)


def losses(run: Path) -> list[dict[str, str]]:
    """Return what validation said of each set, in its order."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [{name: row[name] for name in row if name.startswith("val/loss/")} for row in rows if row["val/loss"]]
    assert found and all(set(row) == {f"val/loss/{name}" for name in WEIGHTS} and all(row.values()) for row in found)
    return found


def trained(run: Path, ranks: int) -> list[str]:
    """Return the digests of the windows of all positions, each as it was trained last: position p of a micro-batch was
    row p // ranks of rank p % ranks."""
    files = [(run / f"steps-{rank}.jsonl").read_text(encoding="utf-8").splitlines() for rank in range(ranks)]
    batches = [
        {fact["step"]: fact["windows"] for fact in map(json.loads, lines) if "windows" in fact} for lines in files
    ]
    assert all(list(of_rank) == list(range(1, newest(run).step + 1)) for of_rank in batches)
    rows = [row for step in batches[0] for row in zip(*(of_rank[step] for of_rank in batches), strict=True)]
    return [window for row in rows for window in row]


def digest(row: Any) -> str:
    return hashlib.sha256(row.tobytes()).hexdigest()[:12]
