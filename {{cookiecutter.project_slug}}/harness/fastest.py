"""In which setting a model's kernels are fastest here: measured once, kept beside the prepared data and in `run.json`.

What is measured is what nobody asked for: the precision, float32's matmul precision, the attention kernel and the
number of threads. A setting has to be clearly faster than a safer one, so that the pick is the same each time.
"""

import json
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from filelock import FileLock

from harness import probe
from harness.files import recovered, write_whole
from harness.probe import Kernels, Setting
from harness.run import folder as run_folder
from harness.run.folder import Run

log = logging.getLogger(__name__)

CACHE = "fastest.json"  # in the folder of what is prepared
KEPT = "fastest_on_"  # and the device: in run.json
SECONDS, SECONDS_THREADS = 0.45, 0.2
FASTER, FEWER_THREADS = 0.95, 0.8  # of the time of what is safer: the most that is an improvement
UNDISTURBED = 0.8  # of the CPU time that all threads could have had: with less, others are at work on the same cores
WORTH = 1e-3  # seconds that a micro-batch takes on a CPU: of less there is nothing to be won
# Eager attention keeps a float32 and a 16-bit number for each score, or two float32. sdpa keeps none.
BYTES_A_SCORE, SHARE_OF_MEMORY = 8, 1 / 16
PATIENCE = 10.0  # seconds for another process that measures
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # where either is set, that is the number


@dataclass(frozen=True)
class Fastest:
    """`milliseconds`: of a micro-batch's kernels, by setting, the safest first. Empty where nothing was measured."""

    setting: Setting
    machine: str
    milliseconds: Mapping[str, float]

    @classmethod
    def of(cls, plain: Any) -> Self:
        """Return it from its plain form. Raises an exception of any kind for anything else."""
        return cls(Setting(**plain["setting"]), str(plain["machine"]), dict(plain["milliseconds"]))

    @property
    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def gain(self) -> str:
        """Return in words what was won over the safest setting."""
        names = list(self.milliseconds)
        mine = str(replace(self.setting, threads=1))
        if not names or mine not in names:
            return "not measured"
        if mine == names[0]:
            return "measured"
        share = self.milliseconds[mine] / self.milliseconds[names[0]]
        return f"measured: {share:.2f} of the time of {names[0].removesuffix(', 1 thread')}"


def settled(
    run: Run, kernels: Kernels, asked: str, device: str, *, cache: Path | None, alone: bool, source: Path | None
) -> Fastest:
    """Return what the run computes in: as in its `run.json`, or in that of the run at `source`, which it continues;
    else what is fastest here. asked: the precision, or auto. alone: no other rank computes on this machine."""

    def find() -> dict[str, Any]:
        known = run_folder.read(source).get(KEPT + device) if source else None
        return known or fastest(kernels, asked, device, cache=cache, alone=alone).plain

    try:
        found = Fastest.of(run.settled(KEPT + device, find))
    except (KeyError, TypeError, ValueError):
        found = None
    if found is None or asked not in ("auto", found.setting.precision):  # the command line has the last word
        return fastest(kernels, asked, device, cache=cache, alone=alone)
    if found.machine != machine(device):
        log.info("As in run.json, though it was measured elsewhere (%s): %s", found.machine, found.setting)
    return found if _threads_are_free() else replace(found, setting=replace(found.setting, threads=0))


def kept(diary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's diary has settled of this, for a run that has to compute the same."""
    return {name: value for name, value in diary.items() if name.startswith(KEPT)}


def fastest(kernels: Kernels, asked: str, device: str, *, cache: Path | None = None, alone: bool = True) -> Fastest:
    """Return what is fastest here, as on file or measured now. On file it comes where the folder `cache` exists."""
    settings = list(candidates(kernels, asked, device))
    many = torch.get_num_threads() if device == "cpu" else 0
    threads = alone and many > 1 and _threads_are_free()
    if len(settings) == 1 and not threads or not kernels.products:
        return Fastest(settings[0], machine(device), {})
    where = f"{machine(device)}, torch {torch.__version__}, {many} threads, "
    key = f"{where}{'these or fewer' if threads else 'fixed'}; {kernels}; {'; '.join(map(str, settings))}"
    if cache is None or not cache.is_dir():
        return _measure(kernels, settings, device, threads=threads)
    lock = FileLock(cache / f".{CACHE}.lock", timeout=PATIENCE)
    try:
        with lock:  # of the jobs of a sweep one measures
            known = recovered(cache / CACHE, _table) or {}
            with suppress(KeyError, TypeError, ValueError):
                return Fastest.of(known[key])
            found = _measure(kernels, settings, device, threads=threads)
            write_whole(cache / CACHE, json.dumps(known | {key: found.plain}, indent=1) + "\n")
            return found
    except (OSError, NotImplementedError) as error:  # a disk that is full, cannot be written or knows no locks
        log.info("What is fastest here cannot be kept in %s (%s).", cache, error)
        return _measure(kernels, settings, device, threads=threads)


def candidates(kernels: Kernels, asked: str, device: str) -> Iterator[Setting]:
    """Yield the settings to choose from, the safest first. On a GPU that is bf16-mixed where its hardware has it."""
    attentions = ["sdpa"]
    if device == "cpu" and BYTES_A_SCORE * kernels.scores < SHARE_OF_MEMORY * psutil.virtual_memory().total:
        attentions += ["eager"] * bool(kernels.attention)
    for precision in precisions(device) if asked == "auto" else [asked]:
        for matmul in matmul_precisions(precision, device):
            for attention in attentions:
                yield Setting(precision, matmul, attention)


def precisions(device: str) -> list[str]:
    """Return those that need no loss scaling, the default first."""
    if device == "cuda" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ["32-true"]
    return {"cuda": ["bf16-mixed", "32-true"], "cpu": ["32-true", "bf16-mixed"]}.get(device, ["32-true"])


def matmul_precisions(precision: str, device: str) -> list[str]:
    """Return float32 matmul precisions: on a CPU only those that keep its digits, on a GPU TensorFloat-32."""
    if device == "cuda":
        return ["high"]
    if device == "cpu" and precision.startswith("32") and probe.is_exact("medium"):
        return ["highest", "medium"]
    return ["highest"]


def machine(device: str) -> str:
    """Return the name of what computes. A CPU's own may say little: what it is able to do is part of it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    able = torch.cpu.get_capabilities()
    mark = zlib.crc32(" ".join(sorted(name for name, value in able.items() if value is True)).encode())
    return f"{able.get('cpu_name') or device}, {psutil.cpu_count()} cores, able {mark:08x}"


def choose(settings: list[Setting], times: Mapping[Setting, float], enough: float = FASTER) -> Setting:
    """Return the setting that is clearly faster than each safer one before it."""
    chosen = settings[0]
    for setting in settings[1:]:
        if times[setting] < enough * times[chosen]:
            chosen = setting
    return chosen


def _measure(kernels: Kernels, settings: list[Setting], device: str, *, threads: bool) -> Fastest:
    on_one = [replace(setting, threads=1) for setting in settings] if device == "cpu" else settings
    times = probe.seconds_of(on_one, kernels, device, SECONDS)
    chosen = choose(on_one, times)
    if device == "cpu" and times[on_one[0]] < WORTH:
        chosen, threads = on_one[0], False
    number = _fewer_threads(chosen, kernels) if threads else 0
    milliseconds = {str(setting): round(1e3 * seconds, 3) for setting, seconds in times.items()}
    return Fastest(replace(chosen, threads=number), machine(device), milliseconds)


def _fewer_threads(setting: Setting, kernels: Kernels) -> int:
    """Return how many threads are clearly faster than all; 0 where none are, or where others are at work here."""
    all_of_them = replace(setting, threads=torch.get_num_threads())
    began, cpu = time.perf_counter(), time.process_time()
    probe.seconds_of([all_of_them], kernels, "cpu", SECONDS_THREADS / 2)
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    if used < UNDISTURBED * wall * all_of_them.threads:
        return 0
    fewer = [replace(setting, threads=all_of_them.threads >> n) for n in range(all_of_them.threads.bit_length())]
    times = probe.seconds_of(fewer, kernels, "cpu", SECONDS_THREADS)
    chosen = choose(fewer, times, FEWER_THREADS)
    return 0 if chosen == all_of_them else chosen.threads


def _threads_are_free() -> bool:
    return not any(name in os.environ for name in THREADS)


def _table(text: str) -> dict[str, Any]:
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("it is not a table")
    return table
