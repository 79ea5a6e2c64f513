"""What a search chooses depends on the trials before it and on nothing else."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="an extra")
from harness.config.compose import normalize_overrides  # noqa: E402
from harness.config.jobs import Job, Multirun  # noqa: E402
from harness.config.space import Choice, Span, space  # noqa: E402
from harness.hydra_main import prepare_multirun  # noqa: E402
from harness.launch import search  # noqa: E402
from harness.launch.search import Search  # noqa: E402
from harness.launch.status import Status  # noqa: E402

WORDS = (
    "sweep=optuna", "sweep.n_trials=14", "model=tiny", "optimizer.lr=tag(log, interval(1e-4,1e-1))",
    "optimizer.weight_decay=range(0,0.2,step=0.05)", "data.batch_size=2,4", "trainer.max_steps=6",
)  # fmt: skip


def sweep(root: Path, *more: str) -> Multirun:
    found = prepare_multirun(list(normalize_overrides([*WORDS, f"run.root={root}", *more])))
    found.folder.mkdir(parents=True, exist_ok=True)
    return found


def loss_of(job: Job) -> float:
    """A bowl, with its bottom in the middle of what is searched."""
    return abs(math.log10(float(job.swept["optimizer.lr"])) + 2) + float(job.swept["optimizer.weight_decay"])


def train(found: Search, folder: Path, job: Job, *, validations: int = 3) -> None:
    """Do what a job does, as far as a search sees it."""
    log = folder / job.name / "debug_log" / "events.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        for number in range(1, validations + 1):
            data = {"loss": loss_of(job) + 3 - number}
            event = {"event_type": "validation", "step": 2 * number, "attempt": 1, "time": 0, "data": data}
            file.write(json.dumps(event) + "\n")
    status = Status.of(folder, job)
    if found.wanted(job):
        status.state, status.step, status.val_loss = "finished", 2 * validations, loss_of(job)
    else:
        status.state = "stopped"
    status.write(folder)
    found.ended(job, status)


def trials(found: Search) -> list[Any]:
    return [(one.params, one.state, one.value, one.intermediate_values) for one in found.study.get_trials()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Search:
    whole = sweep(tmp_path_factory.mktemp("undisturbed"))
    found = Search(whole)
    for job in found.jobs():
        train(found, whole.folder, job)
    return found


def test_a_search_has_its_trials_and_gives_some_up(undisturbed: Search) -> None:
    rows = undisturbed.rows()
    assert undisturbed.done == 14 and {row.state for row in rows} == {"finished", "pruned"}
    given_up = next(row for row in rows if row.state == "pruned")
    assert given_up.step in (2, 4) and given_up.reason == f"Given up at step {given_up.step}."
    assert len({row.overrides["optimizer.lr"] for row in rows}) == 14


def test_the_choices_do_not_depend_on_where_a_search_was_killed(undisturbed: Search, tmp_path: Path) -> None:
    whole = sweep(tmp_path)
    for begun in range(1, 8):  # a kill after each second job has begun, with half a line of the journal and its lock
        found = Search(whole)
        jobs = found.jobs()
        for _ in range(begun % 3):
            train(found, whole.folder, next(jobs))
        next(jobs)
        journal = whole.folder / search.JOURNAL
        with journal.open("ab") as file:
            file.write(b'{"op_code": 4, "wor')
        if not Path(f"{journal}.lock").exists():
            Path(f"{journal}.lock").symlink_to(journal)
    found = Search(whole)
    for job in found.jobs():
        train(found, whole.folder, job)
    assert trials(found) == trials(undisturbed)
    assert found.study.best_value == undisturbed.study.best_value


def test_more_trials_are_added_and_the_order_of_words_is_nothing(undisturbed: Search, tmp_path: Path) -> None:
    whole = sweep(tmp_path, "sweep.n_trials=3")
    found = Search(whole)
    for job in found.jobs():
        train(found, whole.folder, job)
    words = [f"run.root={tmp_path}", *reversed(WORDS[2:]), "sweep=optuna", "sweep.n_trials=5"]
    more = prepare_multirun(list(normalize_overrides(words)))
    assert more.folder == whole.folder
    found = Search(more)
    begun = [job.name for job in found.jobs() if not train(found, whole.folder, job)]
    assert len(begun) == 2 and trials(found) == trials(undisturbed)[:5]


def test_longer_trials_are_another_search_of_the_same_runs(tmp_path: Path) -> None:
    def names(*more: str) -> list[str]:
        whole = sweep(tmp_path, "sweep.n_trials=2", *more)
        found = Search(whole)
        return [job.name for job in found.jobs() if not train(found, whole.folder, job)]

    assert names() == names("trainer.max_steps=8") and names() == []


def test_what_was_trained_is_not_trained_again_and_no_run_is_trained_twice_at_once(tmp_path: Path) -> None:
    words = ["sweep=optuna", "sweep.n_trials=6", "model=tiny", "seed=1,2", f"run.root={tmp_path}"]
    whole = prepare_multirun(list(normalize_overrides(words)))
    whole.folder.mkdir(parents=True)
    found = Search(whole)
    jobs: Iterator[Job] = found.jobs()
    begun = [next(jobs), next(jobs)]
    assert next(jobs, None) is None and begun[0].name != begun[1].name
    for number, job in enumerate(begun):
        status = Status.of(whole.folder, job)
        status.state, status.step, status.val_loss = "finished", 6, float(number)
        found.ended(job, status)
    assert found.done == 6 and len(found.rows()) == 2


def test_a_job_that_failed_is_tried_again_by_the_same_line(tmp_path: Path) -> None:
    whole = sweep(tmp_path, "sweep.n_trials=2")

    def fail(found: Search) -> list[str]:
        names = []
        for job in found.jobs():
            status = Status.of(whole.folder, job)
            status.state = "failed"
            status.write(whole.folder)
            found.ended(job, status)
            names.append(job.name)
        return names

    assert fail(Search(whole)) == fail(Search(whole)) and Search(whole).done == 0


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.b=interval(1,8)", Span(1.0, 8.0)),
        ("a.b=int(interval(1,8))", Span(1, 8)),
        ("a.b=tag(log, interval(1e-4,1e-2))", Span(1e-4, 1e-2, log=True)),
        ("a.b=range(0,0.2,step=0.05)", Span(0, 0.2, 0.05)),
        ("a.b=choice(x,1)", Choice(("x", "1"))),
        ("a.b=x,y", Choice(("x", "y"))),
    ],
)
def test_a_search_speaks_as_hydras_sweepers_do(word: str, expected: Choice | Span) -> None:
    assert space([word]) == {"a.b": expected}
