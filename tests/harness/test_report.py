"""The report: what it reads, how it judges, a page that stands alone. The logs are written by the real event log."""

import json
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from places import PROJECT

from harness.config.compose import compose
from harness.errors import UserError
from harness.report.curves import Curve, Thinned
from harness.report.facts import duration, facts
from harness.report.html import page
from harness.report.read import read
from harness.report.record import RunRecord
from harness.report.rules import judge
from harness.report.symptoms import Symptom
from harness.report.terminal import report
from harness.telemetry import events

Event = tuple[str, int, dict]


def step_event(step: int, loss: float | None, **more: object) -> Event:
    known = {"epoch": 0, "loss": loss, "accuracy": 0.1, "lr": 1e-3, "tokens_per_second": 1000.0}
    return "training_step", step, known | more


def gradient(step: int, norm: float | None = 1.0, **more: object) -> Event:
    known = {"norm": norm, "max": norm, "min": norm, "parameters": 4, "with_gradient": 4, "zero": 0}
    return "gradient_stats", step, known | {"top": {"layers.0.mlp": norm}} | more


def update(step: int, change: float = 1e-3, **more: object) -> Event:
    known = {"parameters": 4, "changed": 4 * (change > 0), "lr": 1e-3, "skipped": False, "top": {}}
    return "param_updates", step, known | {"modules": {"embed_tokens": change, "layers.0.mlp": change}} | more


START: Event = (
    "fit_start",
    0,
    {"parameters": {"trainable": 10, "frozen": 0, "total": 10}, "training": {"device": "cpu"}},
)
END: Event = ("fit_end", 200, {"epoch": 0, "max_steps": 200, "stopped_by": None})
FALLING = [step_event(step, 7.0 - step / 100, accuracy=step / 1000) for step in range(10, 210, 10)]


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., Path]:
    """Write the events of one attempt of the run `name`; more calls are more attempts."""

    def write(found: Iterable[Event], name: str = "r", attempt: int = 1) -> Path:
        folder = tmp_path / name
        events.open_log(folder, run_id="1", attempt=attempt)
        for event_type, step, data in found:
            events.emit(event_type, step, data)
        events.close_log()
        return folder

    return write


def test_a_curve_of_any_length_has_few_points_and_hides_no_extreme() -> None:
    curve = Curve(most=100)
    for step in range(10_000):
        curve.add(step, 999.0 if step == 4321 else float(step % 7))
    points = list(curve.points())
    assert 50 <= len(points) <= 100
    assert points == sorted(points)
    assert (curve.first, curve.last, curve.lowest, curve.highest) == (0.0, 9_999 % 7, 0.0, 999.0)
    assert curve.mean == pytest.approx((sum(s % 7 for s in range(10_000)) - 4321 % 7 + 999) / 10_000)
    (spike,) = [point for point in points if point[3] == 999]
    assert abs(spike[0] - 4321) <= curve.width


def test_a_thinned_list_keeps_its_ends_and_is_even() -> None:
    thinned = Thinned(10)
    for item in range(1001):
        thinned.add(item)
    kept = list(thinned)
    assert kept[0] == 0 and kept[-1] == 1000 and len(kept) <= 11
    assert len({after - before for before, after in zip(kept, kept[1:-1], strict=False)}) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(logged: Callable[..., Path]) -> None:
    def peak(number: int) -> int:
        folder = logged(
            [e for s in range(number) for e in (step_event(s, 1.0), gradient(s), update(s))], name=str(number)
        )
        tracemalloc.start()
        read(folder)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert peak(8_000) < 1.2 * peak(4_000)


def test_what_was_done_again_counts_once(logged: Callable[..., Path]) -> None:
    folder = logged([START, *(step_event(s, 1.0) for s in range(10, 151, 10))])
    logged([("fit_start", 100, {}), *(step_event(s, 2.0) for s in range(110, 201, 10)), END], attempt=2)
    record = read(folder)
    assert record.counts["training_step"] == 20
    assert [mean for _, mean, _, _ in record.curves["loss"].points()] == [1.0] * 10 + [2.0] * 10
    assert record.steps_of("resume") == [100]
    assert len(record.times) == 2


def test_a_truncated_last_line_is_no_trouble(logged: Callable[..., Path]) -> None:
    folder = logged([START, *FALLING])
    with events.log_path(folder).open("ab") as file:
        file.write(b'{"schema":1,"time":1.0,"run_')
    assert read(folder).counts["training_step"] == 20


def titles(record: RunRecord) -> list[str]:
    return [finding.title for finding in judge(record)]


def test_a_healthy_run_has_only_good_findings(logged: Callable[..., Path]) -> None:
    record = read(logged([START, *FALLING, gradient(10), update(50), END]))
    assert titles(record) == ["The loss falls", "The accuracy rises", "It came to its end"]
    assert facts(record)["trend"] == {
        "first": pytest.approx(6.45),
        "last": pytest.approx(5.45),
        "change": pytest.approx(-1 / 6.45),
    }


SICK: dict[str, list[Event]] = {
    "The loss is flat": [step_event(s, 7.6 + 0.001 * (s % 3)) for s in range(40)],
    "The loss rises": [step_event(s, 2.0 + s / 10) for s in range(40)],
    "The learning rate is 0": [step_event(s, 7.6, lr=0.0) for s in range(40)],
    "It gets worse on text that it has not seen": [
        *FALLING,
        *(("validation", s, {"loss": v}) for s, v in ((100, 3.0), (200, 3.4))),
    ],
    "The labels do not fit the model": [
        ("data_sanity_check", 3, {"ok": False, "vocabulary": 9, "name": "labels", "row": 0, "position": 4, "id": 10})
    ],
    "Some rows have no label": [("data_sanity_check", 3, {"rows_without_label": 2})],
    "fp16 was given up": [("precision_fallback", 5, {"to": "bf16-mixed"})],
    "Checkpoints could not be written": [("checkpoint", 100, {"reason": "every_n_steps", "failed": "disk full"})],
    "Optimizer steps were skipped": [("nan_skip", 7, {"norm": None}), ("nan_skip", 7, {"norm": None})],
    "Gradients explode": [gradient(s, 1e5 if s == 3 else 1.0) for s in range(9)],
    "Large gradients": [gradient(s, 500.0 if s == 3 else 1.0) for s in range(9)],
    "The gradient is zero": [gradient(5, 0.0, zero=4)],
    "Gradients vanish": [gradient(s, 1e-6) for s in range(9)],
    "Some parameters have no gradient": [gradient(5, with_gradient=3)],
    "Steps that moved no weight": [update(50, 0.0)],
    "Memory ran out": [("oom", 5, {})],
    "The accuracy falls": [step_event(s, 2.0, accuracy=0.9 - s / 100) for s in range(40)],
    "The accuracy is flat": [step_event(s, 2.0 - s / 100) for s in range(40)],
    "The loss jumped while warming up": [
        step_event(s, 9.0 if s == 25 else 7.0 - s / 100, lr=1e-5 * s) for s in range(1, 40)
    ],
    "Sudden changes": [e for s in range(40) for e in (step_event(s, 2.0), gradient(s, 90.0 if s == 30 else 1.0))],
    "It became slower": [step_event(s, 1.0 - s / 100, tokens_per_second=1000.0 - 20 * s) for s in range(40)],
    "It ended with an exception": [("exception", 5, {"type": "ValueError", "message": "no", "traceback": ""})],
    "It is running, or was killed": [step_event(1, 1.0)],
    "It was stopped by SIGTERM": [("fit_end", 5, {"stopped_by": "SIGTERM"})],
}


@pytest.mark.parametrize("title", SICK)
def test_each_symptom_is_found_with_what_to_try(title: str, logged: Callable[..., Path]) -> None:
    (finding,) = [finding for finding in judge(read(logged([START, *SICK[title]]))) if finding.title == title]
    assert finding.level in ("watch", "bad") and finding.try_next and finding.evidence


def test_steps_are_named(logged: Callable[..., Path]) -> None:
    (finding,) = [f for f in judge(read(logged(update(s, 0.0) for s in range(50, 1000, 50)))) if "moved no" in f.title]
    assert finding.evidence == "steps 50, 100, 150, 200, 250, 300, 350, 400 and 11 more"


def test_nothing_moved_for_a_reason_is_no_finding(logged: Callable[..., Path]) -> None:
    record = read(logged([START, *FALLING, update(50, 0.0, lr=0.0), update(100, 0.0, skipped=True), END]))
    assert titles(record) == ["The loss falls", "The accuracy rises", "It came to its end"]


def test_a_run_that_went_on_after_a_crash_is_not_called_crashed(logged: Callable[..., Path]) -> None:
    folder = logged([START, *FALLING, ("exception", 200, {"type": "E", "message": "m", "traceback": ""})])
    logged([("fit_start", 200, {}), ("fit_end", 300, {"stopped_by": None})], attempt=2)
    assert "It ended with an exception" not in titles(read(folder))


def test_every_finding_leads_to_a_section_of_the_guide(logged: Callable[..., Path]) -> None:
    guide = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sections = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in guide.splitlines()
        if line[:3] == "## "
    }
    found: list[Symptom] = [
        f for n, e in enumerate(SICK.values()) for f in judge(read(logged([START, *e], name=str(n))))
    ]
    pages = {finding.page for finding in found if finding.page}
    assert len(pages) > 5 and pages <= sections


@pytest.mark.parametrize(("seconds", "words"), [(3.21, "3.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_folder_without_a_log_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no event log"):
        read(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read(tmp_path / "typo")


@pytest.fixture
def two(logged: Callable[..., Path]) -> list[RunRecord]:
    said = [("sample", s, {"prompt": "def ", "text": f"def <script>alert({s})</script>"}) for s in (100, 200)]
    first = logged(
        [
            START,
            *FALLING,
            gradient(10),
            update(50),
            ("nan_skip", 60, {"bundle": "runs/first/nan/step-00000060"}),
            *said,
            END,
        ],
        name="first",
    )
    second = logged(
        [START, *(step_event(s, 8.0 - s / 50) for s in range(10, 200, 10)), gradient(10), update(50), END],
        name="second",
    )
    (first / "config.yaml").write_text("optimizer: {lr: 0.5}\nlogger: {wandb: {api_key: hunter2}}\n", encoding="utf-8")
    return [read(first), read(second)]


def test_the_page_stands_alone_and_shows_no_text_as_code(two: list[RunRecord]) -> None:
    html = page(two[:1])
    ours = re.sub(r"<script>.*?</script>", "", html, flags=re.S)  # without the drawing library
    assert not re.search(r"""(src|href)=["'](?!data:)""", ours)
    assert "&lt;script&gt;alert(100)" in html and "<script>alert(100)" not in html
    assert html.count('class="plotly-graph-div"') == 6
    default = compose().optimizer.lr
    assert f"<code>optimizer.lr</code></td><td><code>{default}</code></td><td><code>0.5</code>" in html
    assert "hunter2" not in html and "***" in html


def test_several_runs_are_compared(two: list[RunRecord]) -> None:
    html = page(two)
    assert html.count('class="plotly-graph-div"') == 7  # each run has its own map of updates
    assert "first training" in html and "second training" in html
    assert "<h1>2 runs</h1>" in html


def test_the_command_prints_writes_and_loads_no_torch(two: list[RunRecord], tmp_path: Path) -> None:
    look = "import sys; from pathlib import Path; from harness.report.terminal import report;"
    look += (
        "report([Path(sys.argv[1])], False, None); assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, tmp_path / "first"],
        cwd=PROJECT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The loss falls" in done.stdout and "python -m lm replay runs/first/nan/step-00000060" in done.stdout
    assert (tmp_path / "first" / "report.html").stat().st_size > 1_000_000


def test_json_is_strict_and_complete(command: Callable, two: list[RunRecord], tmp_path: Path) -> None:
    done = command("report", "first", "second", "--json")
    first, second = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["skipped_steps"] == [60] and first["curves"]["loss"]["first"] == 6.9
    assert {finding["title"] for finding in first["findings"]} >= {"The loss falls", "Optimizer steps were skipped"}
    assert not (tmp_path / "report.html").exists()


def test_a_run_without_losses_is_still_strict_json(command: Callable, logged: Callable[..., Path]) -> None:
    logged([START], name="empty")
    assert json.loads(command("report", "empty", "--json").stdout, parse_constant=pytest.fail)["step"] == 0


def test_odd_events_are_gaps_and_not_tracebacks(command: Callable, logged: Callable[..., Path], tmp_path: Path) -> None:
    text = "\x1b]0;owned\x07\x1b[2J[red]<b>"
    odd: list[Event] = [
        ("fit_start", 0, {"parameters": text, "training": [1]}),
        ("fit_start", 3, {"parameters": {"total": text}, "training": {"device": 7, "precision": None}}),
        ("training_step", 4, {"epoch": text, "loss": text, "accuracy": None, "lr": True}),
        ("training_step", 5, {}),
        ("training_step", 6, {"loss": 10**400}),
        ("gradient_stats", 5, {"total_norm": text, "top": [1]}),
        ("gradient_stats", 6, {"norm": 1.0, "top": {text: text}}),
        ("param_updates", 5, {"modules": text}),
        ("validation", 5, {"loss": text}),
        ("sample", 5, {"text": 7}),
        *((kind, 5, {}) for kind in ("data_sanity_check", "nan_skip", "rollback", "oom", "checkpoint")),
        ("data_sanity_check", 5, {"ok": False}),
        (text, 5, {}),
        ("exception", 6, {"message": text, "type": text}),
    ]
    same = {"time": 1.0, "attempt": 1}
    lines = [json.dumps(same | {"event_type": kind, "step": step, "data": data}) for kind, step, data in odd]
    folder = tmp_path / "it's"
    (folder / "debug_log").mkdir(parents=True)
    events.log_path(folder).write_text("\n".join(lines) + "\n", encoding="utf-8")  # by hand: emit refuses some
    (folder / "config.yaml").write_text(f"run: {{name: it's, dir: [1], root: 7}}\nmodel: {text!r}\n", encoding="utf-8")
    (folder / "run.json").write_text('{"attempts": [7, {}, {"git": 1, "versions": []}], "status": 3}', encoding="utf-8")
    done = command("report", "it's")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("it's/run.json cannot be read (it is not the diary of a run).\n")
    assert "It ended with an exception" in done.stdout and "\x1b" not in done.stdout and "\x07" not in done.stdout
    assert "python -m lm report &#34;it&#39;s&#34;" in (folder / "report.html").read_text(encoding="utf-8")
    json.loads(command("report", "it's", "--json").stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"\xff\xfe", b"[1, 2]", b"{", b"a: [", b"${x:"])
def test_damaged_files_beside_the_log_are_said_and_left_out(
    content: bytes, logged: Callable[..., Path], caplog
) -> None:
    folder = logged([START, *FALLING, END])
    for name in ("config.yaml", "run.json"):
        (folder / name).write_bytes(content)
    record = read(folder)
    assert (record.diary, record.step) == ({}, 200)
    assert f"{folder / 'run.json'} cannot be read" in caplog.text
    assert "The loss falls" in titles(record) and page([record])
    assert [path.name for path in sorted(folder.iterdir())] == ["config.yaml", "debug_log", "run.json"]


def test_a_folder_of_runs_is_reported_run_by_run(
    command: Callable, logged: Callable[..., Path], tmp_path: Path
) -> None:
    for number, name in enumerate(("a", "b")):
        found = [("validation", 200, {"loss": 5.0 - number}), END]
        logged([START, *FALLING, *found], name=f"runs/sweep-lr/{name}")
    (tmp_path / "runs" / "sweep-lr" / "c").mkdir()
    done = command("report", "runs/sweep-lr")
    assert done.returncode == 0, done.stderr
    assert "The page: runs/sweep-lr/report.html" in done.stdout
    assert "<h1>2 runs</h1>" in (tmp_path / "runs" / "sweep-lr" / "report.html").read_text(encoding="utf-8")
    table = done.stdout.split("best validation loss")[1].splitlines()
    assert [line.split() for line in table[1:3]] == [["b", "200", "5.0000", "4.0000"], ["a", "200", "5.0000", "5.0000"]]
    assert [one["name"] for one in json.loads(command("report", "runs/sweep-lr", "--json").stdout)] == ["a", "b"]


def test_the_page_is_never_written_through_a_link(logged: Callable[..., Path], tmp_path: Path) -> None:
    folder, other = logged([START, *FALLING, END]), tmp_path / "precious.txt"
    other.write_text("mine", encoding="utf-8")
    (folder / "report.html").symlink_to(other)
    report([folder], as_json=False, out=None)
    assert other.read_text(encoding="utf-8") == "mine"
    assert not (folder / "report.html").is_symlink() and "<h1>r</h1>" in (folder / "report.html").read_text("utf-8")
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_place_that_cannot_be_written_is_a_sentence(logged: Callable[..., Path], tmp_path: Path) -> None:
    folder = logged([START, *FALLING, END])
    for out in (tmp_path / "nowhere" / "page.html", folder):
        with pytest.raises(UserError, match=r"The page cannot be written to .*: .*\. Try --out FILE\."):
            report([folder], as_json=False, out=out)


def test_epochs_have_steps_and_averages(logged: Callable[..., Path], capsys) -> None:
    def epoch(number: int, first: int) -> list[Event]:
        begun = ("epoch_start", first, {"epoch": number})
        return [begun, *(step_event(s, 8.0 - number - s % 2, epoch=number) for s in range(first + 1, first + 5))]

    folder = logged([START, *epoch(0, 0), *epoch(1, 6), ("validation", 14, {"loss": 1.0})])
    found = facts(read(folder))["epochs"]
    assert [found[number]["steps"] for number in (0, 1)] == [6, 8]
    assert found[0]["loss"] == {"first": 7.0, "last": 8.0, "mean": 7.5}
    assert found[1]["lr"]["mean"] == pytest.approx(1e-3)
    report([folder], as_json=False, out=None)
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "0 6 7.5000 7.0000 -> 8.0000 10.0% 0.001 -> 0.001" in rows


def test_updates_and_labels_are_counted(logged: Callable[..., Path], capsys) -> None:
    labels = [
        ("data_sanity_check", s, {"ok": True, "vocabulary": 300, "label_min": s, "label_max": 90 + s}) for s in (0, 3)
    ]
    moved = [update(1), update(2, changed=2), update(3, 0.0), update(4, 0.0, skipped=True)]
    folder = logged([START, *labels, *moved, END])
    assert facts(read(folder))["updates"] == {"all": 1, "some": 1, "none": 1}
    assert facts(read(folder))["labels"] == {"vocabulary": 300, "label_min": 0, "label_max": 93}
    report([folder], as_json=False, out=None)
    said = " ".join(capsys.readouterr().out.split())
    assert "labels: 0 to 93, with a vocabulary of 300" in said
    assert "updates: 1 moved all, 1 moved some, 1 moved none of the parameters, of 3 recorded steps" in said


def test_both_names_of_a_field_are_read(logged: Callable[..., Path]) -> None:
    known = {"epoch": 0, "loss": 1.0, "accuracy": 0.1, "learning_rate": 0.5, "tokens_per_second": 1.0}
    stats = {"total_norm": 0.0, "parameters": 4, "with_gradient": 4, "zero": 4, "top": {}}
    moved = {"parameters": 4, "changed": 0, "learning_rate": 0.5, "skipped": False, "modules": {}}
    record = read(
        logged([START, ("training_step", 1, known), ("gradient_stats", 1, stats), ("param_updates", 1, moved)])
    )
    assert record.curves["lr"].last == 0.5
    assert {"The gradient is zero", "Steps that moved no weight"} <= set(titles(record))


def test_a_warm_up_is_a_good_sign(logged: Callable[..., Path]) -> None:
    warm = [step_event(s, 7.0 - s / 100, lr=1e-3 * min(1.0, s / 50)) for s in range(10, 210, 10)]
    (symptom,) = [s for s in judge(read(logged([START, *warm, END]))) if s.title == "It was warmed up"]
    assert symptom.level == "good"
    assert symptom.evidence == "the learning rate rose from 0.0002 to 0.001 by step 50, and the loss did not jump"


def test_noise_is_no_sudden_change(logged: Callable[..., Path]) -> None:
    noise = random.Random(0)
    steady = [
        e for s in range(1, 400) for e in (step_event(s, noise.gauss(4.0, 1.0)), gradient(s, noise.uniform(0.5, 3)))
    ]
    assert "Sudden changes" not in titles(read(logged([START, *steady])))


def test_a_typo_is_answered_with_a_sentence(command: Callable) -> None:
    done = command("report", "runs/typo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("runs/typo is not a folder.")
