"""Is this machine ready to train? python devtools/check_setup.py [--quick] [--json]

Looks at Python, packages, devices, disks and caches, imports every part, and trains, saves, loads and generates with a
tiny model in a temporary folder (--quick leaves that out). Exits with 1 if something would stop a run.
"""

import argparse
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it works in a project that is not installed

from devtools.findings import CheckResult, failure, ok, report, warning

INSTALL = "pip install -e . -c constraints.txt"
# Versions that an index still hands out, or that lie in a cache, and why not to run them.
KNOWN_BAD = {
    ("lightning", "2.6.2"): "steals credentials when it is imported (GHSA-w37p-236h-pfx3)",
    ("lightning", "2.6.3"): "steals credentials when it is imported (GHSA-w37p-236h-pfx3)",
}
FREE_GB = (2, 20)  # less is a failure, less is a warning
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"}
SMALL = ("model=tiny", "data.limit=50", "data.val_fraction=0.2", "trainer.max_steps=10", "logger=none")


def findings(*, quick: bool) -> Iterator[CheckResult]:
    """Yield what is found, cheapest first. A package that must not be imported ends it."""
    yield python()
    bad = list(packages())
    yield from bad
    if any(finding.level == "failure" for finding in bad):
        return
    yield from caches_and_login()
    yield from disks()
    yield from components()
    yield from devices()
    yield from speed()
    if not quick:
        yield round_trip()


def python() -> CheckResult:
    wanted = _project()["requires-python"]
    least = tuple(int(part) for part in re.findall(r"\d+", wanted))
    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < least:
        return failure(
            "python", f"{here} is too old: the project needs {wanted}.", "Make the environment with a newer one."
        )
    return ok("python", f"{here} in {sys.prefix}")


def packages() -> Iterator[CheckResult]:
    """Compare what is installed with pyproject.toml. Reads metadata only: importing a bad version may be the damage."""
    from packaging.requirements import Requirement

    good = []
    for line in _project()["dependencies"]:
        wanted = Requirement(line)
        try:
            here = version(wanted.name)
        except PackageNotFoundError:
            yield failure("packages", f"{wanted.name} is not installed.", INSTALL)
            continue
        if reason := KNOWN_BAD.get((wanted.name, here)):
            yield failure("packages", f"{wanted.name} {here} {reason}.", f"pip uninstall {wanted.name}; then {INSTALL}")
        elif not wanted.specifier.contains(here, prereleases=True):
            yield failure("packages", f"{wanted.name} {here} is outside of {wanted.specifier}.", INSTALL)
        else:
            good.append(f"{wanted.name} {here}")
    yield ok("packages", ", ".join(good))


def caches_and_login() -> Iterator[CheckResult]:
    from harness.run import caches, environment

    environment.apply(environment.read_dotenv(ROOT / ".env"))
    for what, cure in caches.complaints():
        yield warning("caches", what, cure)
    for link in caches.dangling_links():
        yield warning(
            "caches", f"{link} points to a file that is gone.", "Remove the link; the file is downloaded again."
        )
    hub, sets = _as_imported("huggingface_hub.constants", "HF_HOME"), _as_imported("datasets.config", "HF_CACHE_HOME")
    if hub != sets:
        cure = "Set HF_HOME before anything is imported: in the shell, or in .env."
        yield warning("caches", f"Two homes at once: downloads go to {hub}, data sets to {sets}.", cure)
    login = "logged in" if os.environ.get("HF_TOKEN") or caches.token().is_file() else "not logged in"
    yield ok("caches", f"{caches.hub()} ({login} to the hub)")


def disks() -> Iterator[CheckResult]:
    for name, folder in (("runs", Path("runs")), ("prepared", Path("prepared")), ("caches", _cache_folder())):
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        kind, free = _file_system(there), shutil.disk_usage(there).free / 1e9
        if not os.access(there, os.W_OK):
            yield failure(
                "disk", f"{name}: {there} cannot be written.", "Choose another folder, or ask for permission."
            )
        elif free < FREE_GB[0]:
            yield failure(
                "disk", f"{name}: {free:.1f} GB are free in {there}.", "Free some space, or choose another disk."
            )
        elif free < FREE_GB[1]:
            yield warning("disk", f"{name}: {free:.1f} GB are free in {there}.", "A 1b model needs 16 GB a checkpoint.")
        elif kind in NETWORK:
            cure = "Locks and small writes are slow there: put runs on a local disk if steps have to wait."
            yield warning("disk", f"{name}: {there} is on a network file system ({kind}).", cure)
        else:
            yield ok("disk", f"{name}: {free:.0f} GB free in {there}" + (f" ({kind})" if kind else ""))


def components() -> Iterator[CheckResult]:
    import harness
    import lm
    from harness.errors import UserError

    packages = [(package.__path__, f"{package.__name__}.") for package in (lm, harness)]
    found = [module.name for path, prefix in packages for module in pkgutil.walk_packages(path, prefix)]
    names = [name for name in found if not name.endswith("__main__")]
    broken, without = 0, []
    for name in names:
        try:
            importlib.import_module(name)
        except UserError:  # an extra that is not here, said where it is asked for
            without.append(name)
        except Exception as error:  # whatever a module may raise is what is to be reported
            broken += 1
            yield failure("components", f"{name} cannot be imported: {type(error).__name__}: {error}", INSTALL)
    if not broken:
        lacking = f"; without what {' and '.join(without)} need" if without else ""
        yield ok("components", f"all {len(names)} modules of lm and harness can be imported{lacking}")


def devices() -> Iterator[CheckResult]:
    import torch

    from harness.hardware import devices as available

    here = [name for name, there in available().items() if there]
    yield ok("device", f"{', '.join(here)}; torch {torch.__version__}")
    if shutil.which("nvidia-smi") and "cuda" not in here:
        cure = "Install a torch with CUDA (https://pytorch.org/get-started), or look at nvidia-smi for the driver."
        yield warning(
            "device", f"This machine has an NVIDIA driver, and torch {torch.__version__} cannot use it.", cure
        )
    for index in range(torch.cuda.device_count() if "cuda" in here else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = f"{torch.cuda.get_device_name(index)}: {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
        if free < 0.8 * total:
            yield warning("device", name, "Somebody is using it: nvidia-smi shows who.")
        else:
            yield ok("device", name)


def speed() -> Iterator[CheckResult]:
    """Say how long the kernels of the default model take here in each setting, and in which a run would compute."""
    from harness import fastest
    from harness.config.compose import compose
    from harness.hardware import best_device
    from harness.probe import Kernels
    from lm.models.attention import attention_shape
    from lm.models.build import context_length, model_config, outline

    cfg = compose([])
    config = model_config(cfg.model)
    context = context_length(cfg.model, config)
    shape = attention_shape(cfg.model, config, context)
    kernels = Kernels.of(outline(cfg.model, config), cfg.data.batch_size * context, shape)
    found = fastest.fastest(kernels, "auto", best_device(), cache=Path(cfg.data.prepared))
    for setting, milliseconds in found.milliseconds.items():
        yield ok("speed", f"{milliseconds:>8,.1f} ms for a micro-batch of model={cfg.model.name}: {setting}")
    yield ok("speed", f"auto is {found.setting} ({found.gain}) on {found.machine}")


def round_trip() -> CheckResult:
    """Train ten steps, save, load and generate, as a user would type it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).as_posix()
        train = [*SMALL, "run.name=check", f"run.root='{folder}'", f"data.prepared='{folder}/prepared'"]
        commands = (("train.py", *train), ("generate.py", f"{folder}/check", "--max-tokens", "5"))
        for script, *arguments in commands:
            command = [sys.executable, str(ROOT / script), *arguments]
            done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8", cwd=folder)
            if done.returncode:
                words = f"python {script} {' '.join(arguments)}"
                said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
                return failure(
                    "round trip", f"{words} ended with {done.returncode}: {said}", "Run it by hand for the whole story."
                )
    return ok("round trip", "trained ten steps, saved, loaded and generated")


def _project() -> dict[str, list[str] | str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _as_imported(module: str, name: str) -> str:
    return os.path.realpath(getattr(importlib.import_module(module), name))


def _cache_folder() -> Path:
    from harness.run import caches

    return caches.hub()


def _file_system(folder: Path) -> str:
    """Return the kind of file system a folder is on, as Linux calls it; nothing elsewhere."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return ""
    found = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    inside = [(words[1], words[2]) for words in found if folder.resolve().is_relative_to(words[1])]
    return max(inside, key=lambda mount: len(mount[0]), default=("", ""))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the training, which takes most of the time")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    arguments = parser.parse_args()
    report(findings(quick=arguments.quick), as_json=arguments.json)


if __name__ == "__main__":
    main()
