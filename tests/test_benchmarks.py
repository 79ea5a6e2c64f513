"""What the README and RESULTS.md say of speed is what is on file, and a loss of a tenth is a failure."""

import copy
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import record  # noqa: E402
import run as benchmarks  # noqa: E402
from timing import Bar, Outcome, Sample, interleaved, ratio  # noqa: E402

SAMPLES = {"ours": [Sample(2.0, 1.0), Sample(3.0, 1.2), Sample(2.2, 1.1)], "bare": [Sample(1.0, 1.0)] * 3}
OUTCOME = Outcome(SAMPLES, [Bar("ours over bare", "ours", "bare", 1.05, clock="wall")])


def test_the_readme_has_the_table_that_is_on_file() -> None:
    readme = record.README.read_text(encoding="utf-8")
    assert record.BEGIN in readme and readme == record.with_speed(readme)


def test_the_results_page_is_made_of_what_is_on_file() -> None:
    assert record.PAGE.read_text(encoding="utf-8") == record.page(benchmarks.not_run())


def test_every_benchmark_has_a_result_or_a_word_why_not() -> None:
    page = record.PAGE.read_text(encoding="utf-8")
    assert all(f"### {name}\n" in page or f"- `{name}`: not run" in page for name in benchmarks.NAMES)
    assert "- `gpu`: not run: no GPU was at hand." in page


def test_a_ratio_is_the_median_of_its_rounds() -> None:
    assert ratio(SAMPLES, "ours", "bare", "wall").median == 2.2


def test_contestants_take_turns_forward_and_backward() -> None:
    order: list[str] = []
    contestants = {name: lambda name=name: order.append(name) or Sample(1, 1) for name in "ab"}
    samples = interleaved(contestants, rounds=2, warm_up=0)
    assert order == ["a", "b", "b", "a"] and [len(found) for found in samples.values()] == [2, 2]


@pytest.mark.parametrize(("slower", "complains"), [(1.0, False), (1.09, False), (1.5, True)])
def test_a_loss_of_more_than_a_tenth_is_told(slower: float, complains: bool) -> None:
    before = record.result("x", OUTCOME, {})
    now = copy.deepcopy(before)
    for name in ("median", "low", "high"):
        now["bars"][0]["wall"][name] *= slower
    assert bool(list(record.losses(before, now))) == complains


def test_a_spread_that_makes_a_figure_meaningless_is_not_shown_as_one() -> None:
    noisy = Outcome({**SAMPLES, "ours": [Sample(1, 1), Sample(5, 5), Sample(9, 9)]}, OUTCOME.bars)
    assert "too noisy to say" in record.table(record.result("x", noisy, {}))
