"""Which kind of machine a result comes from: results of different kinds are never compared."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "transformers", "hydra-core", "numpy")


def kind() -> str:
    """Return a name that is the same for every machine of this kind, such as `linux-x86_64-2-cores-amd-epyc-bf16`."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        fast = ["bf16"] if fast_bf16() else []
        device = " ".join([f"{os.cpu_count()} cores", processor(), *fast])
    return re.sub(r"[^a-z0-9_]+", "-", f"{platform.system()} {platform.machine()} {device}".lower()).strip("-")


def fast_bf16() -> bool:
    """Whether this CPU multiplies in bf16 by hardware."""
    return any(torch.cpu.get_capabilities().get(name) is True for name in ("avx512_bf16", "amx_bf16"))


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return names[0] if names else platform.processor() or platform.machine()


def facts() -> dict[str, Any]:
    """Return what a reader has to know besides the kind."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    load = [round(number, 1) for number in os.getloadavg()] if hasattr(os, "getloadavg") else []
    return {
        "processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), **versions, "load_before": load,
    }  # fmt: skip
