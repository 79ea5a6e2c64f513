"""How many ranks train, and what is refused of devices before anything is made."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from places import PROJECT

from harness.config.compose import compose
from harness.errors import UserError
from harness.hardware import refuse_missing_devices, world_size


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let torch report so many GPUs, which no machine of these tests has."""

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return see


@pytest.mark.parametrize(
    ("overrides", "here", "ranks"),
    [
        (["trainer=cpu"], 0, 1),
        (["trainer=cpu", "trainer.devices=2"], 4, 2),
        (["trainer=cpu", "trainer.devices=auto"], 4, 1),
        (["trainer=auto", "trainer.devices=auto"], 0, 1),
        (["trainer=auto", "trainer.devices=auto"], 4, 4),
        (["trainer=gpu", "trainer.devices=-1"], 4, 4),
        (["trainer=gpu", "trainer.devices=[0,2,3]"], 4, 3),
        (["trainer=gpu", "trainer.devices='1,3'"], 4, 2),
        (["trainer=gpu", "trainer.devices='1,'"], 4, 1),
        (["trainer=gpu", "trainer.devices=auto", "trainer.num_nodes=2"], 4, 8),
    ],
)
def test_the_number_of_ranks_is_that_of_lightning(
    overrides: list[str], here: int, ranks: int, gpus: Callable[[int], None]
) -> None:
    gpus(here)
    assert world_size(compose(overrides).trainer) == ranks


def test_a_launcher_says_how_many_ranks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert world_size(compose(["trainer=gpu", "trainer.devices=8"]).trainer) == 16


@pytest.mark.parametrize(
    ("overrides", "here", "sentence"),
    [
        (["trainer=gpu"], 0, "has no cuda device"),
        (["trainer=gpu", "trainer.devices=8"], 4, r"devices=8 is more than this machine has: 4 cuda devices"),
        (["trainer=gpu", "trainer.devices=[0,4]"], 4, r"devices=\[0, 4\] is more than"),
        (["trainer=gpu", "trainer.devices='0,1'"], 1, "1 cuda device. Type trainer.devices=auto"),
        (["trainer=cpu", "trainer.devices=[0,1]"], 4, "lists GPUs, and this run is on the CPU. Type trainer.devices=2"),
    ],
)
def test_devices_that_are_not_here_are_refused(
    overrides: list[str], here: int, sentence: str, gpus: Callable[[int], None]
) -> None:
    gpus(here)
    with pytest.raises(UserError, match=sentence):
        refuse_missing_devices(compose(overrides))


@pytest.mark.parametrize("devices", ["auto", "-1", "1", "4", "[0,3]", "'3,'"])
def test_devices_that_are_here_are_not(devices: str, gpus: Callable[[int], None]) -> None:
    gpus(4)
    refuse_missing_devices(compose(["trainer=gpu", f"trainer.devices={devices}"]))


FAULTS = """
import resource, sys, torch
from harness.config.compose import compose
from harness.hardware import pick

pick(compose(["trainer=cpu", "trainer.precision=32-true"]))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def blocks(number):
    for _ in range(number):
        torch.ones(1 << 24)  # 64 MB, 16,384 pages
blocks(4)
before = faults()
blocks(4)
print((faults() - before) // 4)
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc is not here")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["kept", "the user's own"])
def test_freed_memory_is_kept_on_a_cpu_unless_the_environment_says_otherwise(chosen: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"PYTHONPATH": str(PROJECT), **chosen}
    words = [sys.executable, "-c", FAULTS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, encoding="utf-8", check=True)
    assert (int(done.stdout) > 1_000) == bool(chosen)
