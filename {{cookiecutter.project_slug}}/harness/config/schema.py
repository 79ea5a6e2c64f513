"""The keys that every experiment has: their types, ranges and one sentence each.

YAML holds the values; these classes hold what a value may be. `harness.config.check` compares a composed config with
them, `--help` prints them, and the JSON schema for editors is generated from them. What only an experiment knows (its
model, its data) it declares beside its own code, in a class `Keys(Root)`; conf/plumbing names the module.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, Field

from harness.config.kinds import (  # noqa: F401  some of them for Keys of an experiment
    Above0,
    Amount,
    Anything,
    Batches,
    Count,
    Duration,
    Flag,
    FolderName,
    Number,
    Positive,
    Section,
    Share,
    Text,
    Whole,
    extra,
    key,
    not_none,
)  # fmt: skip
from harness.config.launchers import Launcher
from harness.config.rules import complaints
from harness.errors import UserError

if TYPE_CHECKING:  # the help needs the keys alone, at once
    from omegaconf import DictConfig

    from harness.config.library import Library


class Run(Section):
    name: FolderName = key("the run's folder below run.root; by default model, data and a hash of the experiment")
    root: Text = key("the folder of all runs")
    dir: Text = key("the run folder itself")


class Sweep(Section):
    name: FolderName | None = key("the folder of a multirun; by default from the keys that are swept, and a hash")
    over: dict[str, Text | Number | Flag] = key("the keys that a multirun sweeps, with their values as typed")
    n_trials: Positive | None = extra("how many jobs a search has in all")
    seed: Count | None = extra("what a search chooses by; the same one chooses the same")
    sampler: dict[str, Any] | None = extra("a sampler of Optuna, by _target_")
    pruner: dict[str, Any] | None = extra("a pruner of Optuna, by _target_; null: no trial is ended early")


class Checkpoint(Section):
    every_n_steps: Positive | None = key("checkpoint every this many optimizer steps; null for never")
    every_minutes: Above0 | None = key("and whenever this many minutes have passed; null for never")
    keep_last: Positive = key("how many of the newest checkpoints of this run are kept")
    keep_best: Count = key("how many of the checkpoints with the lowest validation loss are kept besides")
    max_gb: Above0 | None = key("remove the oldest checkpoints beyond this many GB; null for no limit")
    write_behind: Flag = key("copy what a checkpoint holds, and write it while training goes on; false: training waits")


class Debug(Section):
    folder: Text | None = key("what a debug run makes lies below this folder; null without a debug preset")
    strict: Flag = key("a device that is not here is an error instead of a warning")
    clean: Flag = key("`python debug.py` clears the debug folder before it starts")
    isolate: Flag = key("move every cache of Hugging Face into the debug folder, keeping the login")
    show_data: Positive | None = key("prepare the data, print so many windows with every token's label, and stop")


Strategy = Literal[
    "auto", "ddp", "ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_find_unused_parameters_true",
    "ddp_find_unused_parameters_false", "ddp_spawn_find_unused_parameters_true",
    "ddp_spawn_find_unused_parameters_false", "ddp_fork_find_unused_parameters_true",
    "ddp_fork_find_unused_parameters_false", "ddp_notebook_find_unused_parameters_true",
    "ddp_notebook_find_unused_parameters_false", "fsdp", "fsdp_cpu_offload", "deepspeed", "deepspeed_stage_1",
    "deepspeed_stage_2", "deepspeed_stage_2_offload", "deepspeed_stage_3", "deepspeed_stage_3_offload",
    "deepspeed_stage_3_offload_nvme", "single_device", "single_tpu", "single_xla", "xla", "xla_debug",
]  # fmt: skip
Precision = Literal[
    "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "transformer-engine",
    "transformer-engine-float16", "bf16", "16", "32", "64", 16, 32, 64,
]  # fmt: skip


class Trainer(Section):
    """Lightning's own arguments under their own names (a test compares the list with its signature), and `mps_fix`."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = key("auto, cpu, gpu or mps")
    strategy: Strategy | Anything = extra("auto, ddp, fsdp, …")
    devices: Annotated[
        Annotated[Whole, Ge(-1)]
        | Annotated[str, Field(pattern=r"^(auto|-1|\d+(\s*,\s*\d*)*)$")]
        | Annotated[list[Count], Field(min_length=1)],
        AfterValidator(not_none),
    ] = key("how many devices, or which")
    num_nodes: Positive = extra("machines")
    precision: Precision = key("auto, 32-true, bf16-mixed, 16-mixed, bf16-true, …")
    logger: Any = extra("use the logger group instead")
    callbacks: Any = extra("use the callbacks group instead")
    fast_dev_run: Flag | Count = extra("true or a number: run so many batches of everything and log nothing")
    max_epochs: Annotated[Whole, Ge(-1)] | None = extra("stop after so many passes over the data")
    min_epochs: Count | None = extra("do at least so many passes")
    max_steps: Annotated[Whole, Ge(-1)] = key("stop after so many optimizer steps; -1 for no limit")
    min_steps: Count | None = extra("do at least so many optimizer steps")
    max_time: Duration | Anything | None = extra("stop after this time, DD:HH:MM:SS")
    limit_train_batches: Batches | None = extra("a number or a fraction of the batches of an epoch")
    limit_val_batches: Batches | None = extra("a number or a fraction of the validation batches")
    limit_test_batches: Batches | None = extra("a number or a fraction of the test batches")
    limit_predict_batches: Batches | None = extra("a number or a fraction of the prediction batches")
    overfit_batches: Batches = extra("train and validate on so many batches")
    val_check_interval: Annotated[Batches, Gt(0)] | Duration | Anything | None = extra(
        "validate every so many micro-batches, or this fraction of an epoch"
    )
    check_val_every_n_epoch: Positive | None = extra("validate every so many epochs; null counts batches across epochs")
    num_sanity_val_steps: Annotated[Whole, Ge(-1)] | None = extra("validation batches before the first step")
    log_every_n_steps: Positive | None = extra("log metrics every so many optimizer steps")
    enable_checkpointing: Any = extra("use callbacks.checkpoint instead")
    enable_progress_bar: Flag | None = extra("whether there is a progress bar")
    enable_model_summary: Flag | None = extra("whether Lightning prints its table of layers")
    accumulate_grad_batches: Positive = key("micro-batches per optimizer step")
    gradient_clip_val: Any = extra("use callbacks.nan_guard.max_grad_norm instead")
    gradient_clip_algorithm: Any = extra("use callbacks.nan_guard instead")
    deterministic: Flag | Literal["warn"] | None = extra("true, false or warn")
    benchmark: Flag | None = extra("let cuDNN choose kernels by timing them")
    inference_mode: Flag = extra("validate under inference_mode")
    use_distributed_sampler: Flag = key("always false here: the order is a function of seed, epoch and position")
    profiler: Literal["simple", "advanced", "pytorch", "xla"] | Anything | None = extra("simple, … or a _target_")
    detect_anomaly: Flag = extra("autograd's anomaly detection: slow, names the operation of a NaN")
    barebones: Any = extra("everything off, to measure overhead: protection too, so it is not for here")
    plugins: Anything | list[Any] | None = extra("Lightning plugins by _target_")
    sync_batchnorm: Flag = extra("Lightning's own")
    reload_dataloaders_every_n_epochs: Count = extra("Lightning's own")
    default_root_dir: Any = extra("always the run folder: use run.root instead")
    enable_autolog_hparams: Flag = extra("Lightning's own")
    model_registry: Text | None = extra("Lightning's own")
    mps_fix: Flag = key("on Apple GPUs, use the attention that does not make NaN of padded rows")


class Root(Section):
    """What the harness knows. An experiment's `Keys(Root)` adds its own, and overrides the methods."""

    seed: Annotated[Count, Le(2**32 - 1)] = key("everything random; 0 is a seed like any other")
    resume: Literal["auto", "never"] = key("continue this run's newest checkpoint, or start a fresh folder beside it")
    resume_from: Text | None = key("start from elsewhere: a run folder, a checkpoint folder, or latest")
    start_from: Text | None = key("begin with the weights of a run or a checkpoint folder, at step 0")
    start_from_allow: list[str] | None = key("patterns of parameters that need not fit what start_from names")
    run: Run
    sweep: Sweep
    launcher: Launcher
    checkpoint: Checkpoint
    debug: Debug
    env: dict[Annotated[str, Field(pattern=r"^[^=\x00]+$")], Text | Flag | Number | None] = key(
        "environment variables, set before anything heavy is imported"
    )
    trainer: Trainer
    callbacks: dict[Any, Anything | None] = key("Lightning callbacks, one mapping each")
    logger: dict[Any, Anything | None] = key("Lightning loggers, one mapping each")
    known_keys: str = key("the module that declares the keys of this experiment")

    # What people type who come from other tools, and what it is called here.
    habits: ClassVar[Mapping[str, str]] = {}

    # Whose classes are checked though their library fills itself lazily.
    libraries: ClassVar[tuple["Library", ...]] = ()

    @classmethod
    def complaints(cls, cfg: "DictConfig") -> Iterator[str]:
        """Yield what is wrong with values that are fine one by one. Every type and range is right already."""
        yield from complaints(cfg)

    @classmethod
    def look(cls, cfg: "DictConfig") -> None:
        """Look at what the config names (files, say), once the environment is set. Raises UserError."""


def declared(cfg: Mapping[Any, Any]) -> type[Root]:
    """Return the keys of the experiment: the class `Keys` of the module that the config names."""
    module = cfg.get("known_keys")
    if not isinstance(module, str):
        return Root
    try:
        return importlib.import_module(module).Keys  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise UserError(f"known_keys={module} has no class Keys: {error}.", cure="See lm/keys.py.") from error
