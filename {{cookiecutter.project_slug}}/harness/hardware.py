"""What `auto` means on this machine: device, precision, compilation, number of ranks. Each pick has its reason."""

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from omegaconf import DictConfig, OmegaConf

from harness.config.global_batch import ranks_named
from harness.errors import UserError
from harness.fastest import Fastest, precisions, settled
from harness.heap import keep_freed_memory
from harness.probe import Kernels, Setting
from harness.run.folder import Run
from harness.sharding import is_sharded

log = logging.getLogger(__name__)

# Compiling takes 20 s or more, seconds from the cache. It gives about a tenth on a CPU, much more on a GPU: runs
# shorter than this would not earn it back.
COMPILE_SECONDS = {"cpu": 400.0, "cuda": 60.0}
# Order of magnitude of what a device computes in training, only to tell seconds from minutes.
FLOPS_PER_SECOND = {"cpu": 3e11, "mps": 3e12, "cuda": 5e13}
LAST_BROKEN_MPS = (2, 13)
LARGE_ON_A_CPU = 100_000_000  # weights
TIMED = ("auto", "32", "bf16", "16")  # the precisions of which kernels are timed

_assumed: set[str] = set()


@dataclass
class Picks:
    """What a run computes on and how, and why. `device` is torch's name for it."""

    device: str
    precision: str
    compile: bool
    attention: str = "sdpa"
    reasons: list[str] = field(default_factory=list)

    @property
    def accelerator(self) -> str:
        """Lightning's name for the device."""
        return {"cuda": "gpu"}.get(self.device, self.device)

    def __str__(self) -> str:
        return ", ".join(self.reasons)


def pick(
    cfg: DictConfig,
    *,
    compile: object = False,
    flops: float = 0.0,
    kernels: Kernels | None = None,
    run: Run | None = None,
    source: Path | None = None,
) -> Picks:
    """Resolve what is `auto` in `cfg.trainer`, and `compile`, for a run that computes so many floating-point
    operations. Precision and attention are what is fastest at `kernels`, where `run` is to keep it: see fastest.py.

    source: the folder of the run that this one continues. Raises UserError when a device is asked for by name and is
    not here (under `debug.strict`, or without a debug preset).
    """
    device, why_device = _device(cfg)
    if device == "cpu":
        keep_freed_memory()
    asked = str(cfg.trainer.get("precision", "auto"))
    if kernels and run and device not in _assumed and asked.startswith(TIMED):
        prepared = OmegaConf.select(cfg, "data.prepared")
        cache, alone = Path(prepared) if prepared else None, world_size(cfg.trainer) == 1
        found = settled(run, kernels, asked, device, cache=cache, alone=alone, source=source)
    else:
        precision = precisions(device)[0] if asked == "auto" else asked
        found = Fastest(Setting(precision, "high" if device == "cuda" else "highest"), "", {})
    found.setting.enter()
    compiled, why_compiled = _compile(compile, device, flops / FLOPS_PER_SECOND[device])
    if compiled and is_sharded(cfg.trainer):
        compiled, why_compiled = False, "not compiled (trainer=fsdp gathers weights in the middle of it)"
    precision, attention, threads = found.setting.precision, found.setting.attention, found.setting.threads
    why = [why_device, f"{precision} ({'asked for' if asked != 'auto' else found.gain})"]
    why += [f"{threads} thread{'s' * (threads != 1)} (measured)"] * bool(threads)
    return Picks(device, precision, compiled, attention, [*why, why_compiled])


def refuse_missing_devices(cfg: DictConfig) -> None:
    """Raise UserError for a device, or a number of devices, that is asked for and is not here."""
    device, _ = _device(cfg, say=False)
    asked = cfg.trainer.get("devices", "auto")
    numbers = [int(part) for part in str(asked).strip("[]").split(",") if part.strip().isdecimal()]
    listed = OmegaConf.is_list(asked) or "," in str(asked)
    if device == "cpu" and listed:
        raise UserError(
            f"trainer.devices={asked} lists GPUs, and this run is on the CPU.",
            cure=f"Type trainer.devices={len(numbers)} for so many processes.",
        )
    if device == "cpu" and str(asked) == "-1":
        raise UserError(
            "trainer.devices=-1 means all GPUs, and this run is on the CPU.",
            cure="Type trainer.devices=auto, or so many processes: trainer.devices=2.",
        )
    here = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device)
    if here is not None and numbers and max(numbers) + listed > here:
        raise UserError(
            f"trainer.devices={asked} is more than this machine has: {here} {device} device{'s' * (here != 1)}.",
            cure="Type trainer.devices=auto for all of them.",
        )


def world_size(trainer: DictConfig) -> int:
    """Return how many ranks train, from Lightning's `devices` and `num_nodes` or from a launcher's environment."""
    if (named := ranks_named(trainer)) is not None:
        return named
    on_gpus = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return (torch.cuda.device_count() if on_gpus else 1) * int(trainer.get("num_nodes") or 1)


@contextmanager
def assuming(device: str) -> Iterator[None]:
    """Let `pick` find a device that is not here: for a plan of a run on another machine."""
    _assumed.add(device)
    try:
        yield
    finally:
        _assumed.discard(device)


def peak_memory(device: str) -> int:
    """Return the most bytes that this process has had so far: on a GPU what torch has reserved there, else its resident
    memory."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage counts what the process was before it became Python, too
        return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def best_device() -> str:
    """Return the name of the best device of this machine, as torch calls it."""
    here = devices()
    return next(device for device in ("cuda", "mps", "cpu") if here[device])


def slow(device: str, weights: int) -> Iterator[str]:
    """Yield why a model of so many weights is slow on `device` where it need not be."""
    if device == "cpu" and shutil.which("nvidia-smi"):
        yield f"torch {torch.__version__} cannot use the NVIDIA driver here (python devtools/check_setup.py)"
    elif device == "cpu" and weights > LARGE_ON_A_CPU:
        yield f"a CPU reads all {weights:,} weights for each token"


def mps_masks_are_broken(version: str = torch.__version__) -> bool:
    """Say whether sdpa on MPS may make NaN of a row without a key: pytorch#156707 in training, fixed in 2.9, and
    pytorch#167515 without gradients, still open in LAST_BROKEN_MPS."""
    return tuple(int(part) for part in version.split(".")[:2]) <= LAST_BROKEN_MPS


def devices() -> dict[str, bool]:
    """Say which kinds of device torch can use here."""
    here = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    return here | dict.fromkeys(_assumed, True)


def _device(cfg: DictConfig, *, say: bool = True) -> tuple[str, str]:
    here = devices()
    asked = {"gpu": "cuda"}.get(str(cfg.trainer.accelerator), str(cfg.trainer.accelerator))
    if asked == "auto":
        best = best_device()
        return best, f"{best} (the best device here)"
    if asked not in here:
        raise UserError(f"trainer.accelerator={asked} is none of auto, cpu, gpu, mps.")
    if here[asked]:
        return asked, f"{asked} (asked for)"
    debug = cfg.get("debug") or {}
    if debug.get("strict") or debug.get("folder") is None:
        raise UserError(
            f"This machine has no {asked} device that torch {torch.__version__} can use.",
            cure="Try trainer=auto, or trainer=cpu.",
        )
    if say:
        log.warning(
            "This machine has no %s device: the same preset runs on the CPU (debug.strict=true makes this an error).",
            asked,
        )
    return "cpu", f"cpu (no {asked} here)"


def _compile(asked: object, device: str, seconds: float) -> tuple[bool, str]:
    if asked != "auto":
        return bool(asked), f"{'compiled' if asked else 'not compiled'} (asked for)"
    if device == "mps":
        return False, "not compiled (MPS)"
    if device == "cpu" and not _has_compiler():
        return False, "not compiled (no C++ compiler here)"
    if seconds < COMPILE_SECONDS[device]:
        return False, "not compiled (a short run)"
    return True, "compiled (the first step takes 20 s, seconds from the cache)"


def _has_compiler() -> bool:
    return shutil.which("cl" if sys.platform == "win32" else "c++") is not None or shutil.which("g++") is not None
