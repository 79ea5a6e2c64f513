"""May a run that somebody else made be rebuilt here? Its config.yaml names classes, and building one runs code.

generate, evaluate and replay build from these places only, and only what can do no harm when it is built:

    a class at the top of a module of this project, such as lm.data.sources.TextSource
    transformers' configs, torch's layers, optimizers and schedules, Lightning's Trainer and harmless callbacks

Nothing is imported to find out: a module's source says whether the class is its own. Whatever else is named is refused,
with the key and the words to add for somebody who has read it: --trust NAME.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config.identity import resolved
from harness.config.secrets import names_secret
from harness.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]

ALLOWED = re.compile(
    r"transformers\.[A-Z]\w*Config"
    r"|transformers\.models\.\w+\.configuration_\w+\.[A-Z]\w*Config"
    r"|transformers\.[A-Z]\w*(ImageProcessorPil|FeatureExtractor)"
    r"|transformers\.(optimization\.)?get_\w*schedule\w*"
    r"|torch\.nn\.(modules\.\w+\.)?[A-Z]\w*"
    r"|torch\.optim\.(\w+\.)?[A-Z]\w*"
    r"|lightning\.pytorch\.Trainer"
    r"|lightning\.pytorch\.callbacks\.(EarlyStopping|EMAWeightAveraging|StochasticWeightAveraging|WeightAveraging"
    r"|LearningRateMonitor|DeviceStatsMonitor|GradientAccumulationScheduler|ModelSummary|RichModelSummary"
    r"|RichProgressBar|TQDMProgressBar|Timer|ThroughputMonitor)"
    r"|lightning\.pytorch\.strategies\.(DDP|FSDP|SingleDevice)Strategy"
)
# Where this project keeps what a config may name. Not here: what writes files, starts processes or reads a run.
OWN_PLACES = (
    "lm.data.*", "lm.models.*", "lm.optim.*", "lm.callbacks.*", "lm.inference.choices.*", "lm.inference.samples.*",
    "lm.module.*", "media.*",
    "harness.callbacks.*", "harness.data.*", "harness.sharding.ShardedStrategy",
)  # fmt: skip
OWN_FUNCTIONS = ("lm.optim.*",)  # elsewhere a function may do anything; a class is built
HARMLESS_VARIABLES = (
    "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HYDRA_FULL_ERROR",
    "CUDA_LAUNCH_BLOCKING", "NCCL_DEBUG", "TORCH_DISTRIBUTED_DEBUG", "TORCH_SHOW_CPP_STACKTRACES", "WANDB_MODE",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_HIGH_WATERMARK_RATIO",
    "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "CUBLAS_WORKSPACE_CONFIG",
    "HF_HUB_DISABLE_TELEMETRY",
)  # fmt: skip
# What debug presets set: downloads of this project's debug folder, and of no other.
OWN_CACHE = re.compile(
    rf"(\$\{{debug\.folder\}}|({re.escape(PROJECT.as_posix())}/)?devtools/temp_debug/\d+)/hf/datasets"
)
ENVIRONMENT = re.compile(r"oc\.env:\s*([^,}]*)")
RESOLVER = re.compile(r"\$\{\s*([\w.$ {}-]*?)\s*:")
RESOLVERS = ("oc.env", "oc.select", "oc.decode", "oc.dict.keys", "oc.dict.values", "run_name", "project_folder")


def refuse_untrusted(cfg: DictConfig, parts: Iterable[str], *, trusted: Iterable[str] = (), where: str = "") -> None:
    """Raise UserError when building `parts` (keys of `cfg`) would run what is not on the list.

    `trusted` are names that the user has typed: a target, or a beginning of targets (`my_module`), or a key.
    """
    # As it is written, for what would be looked up; as it is built, for what `${key}` takes from elsewhere.
    forms = OmegaConf.to_container(cfg, resolve=False), resolved(cfg)
    doubts = [doubt for part in parts for form in forms for doubt in _doubts(_at(form, part), part)]
    left = [(key, what, name) for key, what, name in doubts if not _is_trusted(key, name, trusted)]
    if left:
        left = list(dict.fromkeys(left))
        names = " ".join(dict.fromkeys(f"--trust {name}" for _, _, name in left))
        raise UserError(
            f"{where or 'This run'} may have been made by somebody else, and its config.yaml would run code here:\n  "
            + "\n  ".join(f"{key}: {what}" for key, what, _ in left)
            + "\n",
            cure=f"If you have read that and trust it, add {names}",
        )


def _at(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _is_trusted(key: str, name: str, trusted: Iterable[str]) -> bool:
    return any(known in (key, name) or name.startswith(f"{known}.") for known in trusted)


def _doubts(node: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, what is wrong, the name that would trust it)."""
    if isinstance(node, dict):
        for name, value in node.items():
            place = f"{key}.{name}"
            if name == "_target_":
                if not is_allowed(value):
                    yield place, str(value), value if isinstance(value, str) and "${" not in value else place
            elif name == "trust_remote_code" and value:
                yield place, f"{value}: runs the code that lies beside the model's weights", place
            elif "attn_implementation" in str(name) or place == "model.attention":
                if "/" in str(value) or "${" in str(value):  # transformers would fetch a kernel from the hub
                    yield place, str(value), place
            elif key == "env" and not _is_harmless(str(name), value):
                yield place, f"the environment variable {name}", place
            else:
                yield from _doubts(value, place)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _doubts(value, f"{key}.{index}")
    elif isinstance(node, str) and "${" in node:
        yield from _doubtful_interpolation(node, key)


def _is_harmless(variable: str, value: Any) -> bool:
    own = variable == "HF_DATASETS_CACHE" and OWN_CACHE.fullmatch(str(value))
    return variable in HARMLESS_VARIABLES or value == "***" or bool(own)


def _doubtful_interpolation(text: str, key: str) -> Iterator[tuple[str, str, str]]:
    for resolver in RESOLVER.findall(text):
        if resolver not in RESOLVERS:
            yield key, text, key
    for variable in ENVIRONMENT.findall(text):
        # A token belongs where a token is asked for, and nowhere else; a computed name could be any.
        if ("${" in variable or names_secret(variable)) and not names_secret(key):
            yield key, text, key


def is_allowed(target: Any) -> bool:
    """Return whether building this target can do no harm."""
    if not isinstance(target, str):
        return False
    return ALLOWED.fullmatch(target) is not None or _is_own(target)


def _is_own(target: str) -> bool:
    if not re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)+\.[A-Za-z]\w*", target):
        return False
    module, _, name = target.rpartition(".")
    if not any(fnmatch(target, place) for place in OWN_PLACES):
        return False
    classes, functions, imported = _defined_in(module)
    if name in imported:  # lm.data.sources names what harness.data.sources defines
        return _is_own(imported[name])
    return name in classes or (name in functions and any(fnmatch(target, place) for place in OWN_FUNCTIONS))


@functools.cache
def _defined_in(module: str) -> tuple[frozenset[str], frozenset[str], dict[str, str]]:
    """Return the classes and functions at the top of a module, and where it has those from that it imports from this
    project: a harmless class stays one under another name, and what `os` has is never looked at."""
    file = PROJECT.joinpath(*module.split(".")).with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    imports = [node for node in body if isinstance(node, ast.ImportFrom) and node.level == 0]
    return (
        frozenset(node.name for node in body if isinstance(node, ast.ClassDef)),
        frozenset(node.name for node in body if isinstance(node, ast.FunctionDef)),
        {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in imports
            for alias in node.names
            if str(node.module).startswith(("lm.", "media.", "harness."))
        },
    )
