"""The report in a real browser, without a network: nothing in its console, every chart drawn."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from places import PATIENCE

from harness.report.html import page
from harness.report.read import read
from harness.telemetry import events

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], tuple[str, list[str]]]:
    """Open a page; gives its document as drawn, and what its console says."""

    def open_page(html: str) -> tuple[str, list[str]]:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        flags = [*QUIET.split(), f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        flags += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        flags += ["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", file.as_uri()]
        done = subprocess.run([CHROMIUM, *flags], capture_output=True, encoding="utf-8", timeout=PATIENCE, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


def drawn(document: str) -> dict[str, bool]:
    """Return for each chart, by its title, whether it has a line or a map in it."""
    charts = document.split('<div class="card chart')[1:]
    names = [re.search(r"<h3>([^<]*?) ?<", chart)[1] for chart in charts]
    found = ["main-svg" in chart and bool(re.search(r'class="js-line"|class="hm"', chart)) for chart in charts]
    return dict(zip(names, found, strict=True))


@pytest.mark.slow
def test_a_real_run_is_drawn_without_an_error(train: Callable[..., Path], opened: Callable) -> None:
    often = [f"callbacks.debug_log.{key}_every_n_steps=1" for key in ("gradients", "updates")]
    often += [
        "callbacks.debug_log.every_n_steps=1",
        "callbacks.samples.every_n_steps=2",
        "trainer.val_check_interval=2",
    ]
    first, second = (read(train(f"run.name={name}", *often)) for name in ("first", "second"))

    document, console = opened(page([first]))
    assert console == []
    titles = ["Loss", "Gradient norm", "Learning rate", "Accuracy", "Tokens per second", "Updates"]
    assert drawn(document) == dict.fromkeys(titles, True)

    document, console = opened(page([first, second]))
    assert console == []
    assert drawn(document) == dict.fromkeys([*titles[:-1], "Updates in first", "Updates in second"], True)


@pytest.mark.slow
def test_a_log_with_gaps_and_marks_is_drawn_too(tmp_path: Path, opened: Callable) -> None:
    events.open_log(tmp_path / "x", run_id="1", attempt=1)
    for step in range(0, 40_000, 10):
        loss = float("nan") if step % 700 == 0 else 7 - step / 1e4
        known = {"epoch": 0, "accuracy": 0.1, "learning_rate": 1e-3, "tokens_per_second": 5.0}
        events.emit("training_step", step, known | {"loss": loss})
    events.emit("nan_skip", 500, {})
    events.emit("rollback", 600, {"to": 100})
    events.close_log()
    document, console = opened(page([read(tmp_path / "x")]))
    assert console == []
    assert drawn(document) == dict.fromkeys(["Loss", "Learning rate", "Accuracy", "Tokens per second"], True)
    assert "skipped step" in document and "went back" in document


def test_an_error_would_be_seen(opened: Callable) -> None:
    _, console = opened("<!doctype html><script>nonsense()</script>")
    assert "nonsense is not defined" in console[0]
