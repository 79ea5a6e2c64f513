"""The report: what it reads, how it judges, a page that stands alone. The logs are written by the real event log."""

import json
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
from harness.report.facts import duration, facts
from harness.report.html import page
from harness.report.read import Curve, Record, Thinned, read
from harness.report.rules import Finding, judge
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
FALLING = [step_event(step, 7.0 - step / 100) for step in range(10, 210, 10)]


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


def titles(record: Record) -> list[str]:
    return [finding.title for finding in judge(record)]


def test_a_healthy_run_has_only_good_findings(logged: Callable[..., Path]) -> None:
    record = read(logged([START, *FALLING, gradient(10), update(50), END]))
    assert titles(record) == ["It came to its end", "The loss falls"]
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
    assert titles(record) == ["It came to its end", "The loss falls"]


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
    found: list[Finding] = [
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
    with pytest.raises(UserError, match="is no folder"):
        read(tmp_path / "typo")


@pytest.fixture
def two(logged: Callable[..., Path]) -> list[Record]:
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


def test_the_page_stands_alone_and_shows_no_text_as_code(two: list[Record]) -> None:
    html = page(two[:1])
    ours = re.sub(r"<script>.*?</script>", "", html, flags=re.S)  # without the drawing library
    assert not re.search(r"""(src|href)=["'](?!data:)""", ours)
    assert "&lt;script&gt;alert(100)" in html and "<script>alert(100)" not in html
    assert html.count('class="plotly-graph-div"') == 6
    default = compose().optimizer.lr
    assert f"<code>optimizer.lr</code></td><td><code>{default}</code></td><td><code>0.5</code>" in html
    assert "hunter2" not in html and "***" in html


def test_several_runs_are_compared(two: list[Record]) -> None:
    html = page(two)
    assert html.count('class="plotly-graph-div"') == 7  # each run has its own map of updates
    assert "first training" in html and "second training" in html
    assert "<h1>2 runs</h1>" in html


def test_the_command_prints_writes_and_loads_no_torch(two: list[Record], tmp_path: Path) -> None:
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


def test_json_is_strict_and_complete(command: Callable, two: list[Record], tmp_path: Path) -> None:
    done = command("report", "first", "second", "--json")
    first, second = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["skipped_steps"] == [60] and first["curves"]["loss"]["first"] == 6.9
    assert {finding["title"] for finding in first["findings"]} >= {"The loss falls", "Optimizer steps were skipped"}
    assert not (tmp_path / "report.html").exists()


def test_a_run_without_losses_is_still_strict_json(command: Callable, logged: Callable[..., Path]) -> None:
    logged([START], name="empty")
    assert json.loads(command("report", "empty", "--json").stdout, parse_constant=pytest.fail)["step"] == 0


def test_a_typo_is_answered_with_a_sentence(command: Callable) -> None:
    done = command("report", "runs/typo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("runs/typo is no folder.")
