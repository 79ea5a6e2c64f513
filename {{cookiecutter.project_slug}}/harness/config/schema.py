"""The keys that users type: their types, ranges and one sentence each.

YAML holds the values. These classes hold what a value may be: `harness.config.check` merges a composed config into
them, and the JSON schema for editors is generated from them. Groups whose keys go to a library by `_target_` are open:
further keys are that library's own arguments.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def key(
    doc: str, *, least: float | None = None, above: float | None = None, most: float | None = None, **more: Any
) -> Any:
    """Declare a key: its sentence, its range (`least` <= value, `above` < value, value <= `most`) and `choices`."""
    limits = {"least": least, "above": above, "most": most, "choices": more.pop("choices", None)}
    assert not more, more
    return field(
        default=MISSING, metadata={"doc": doc, **{name: limit for name, limit in limits.items() if limit is not None}}
    )


@dataclass
class Run:
    name: str = key(
        "the run's folder under `run.root`; by default model, data and a hash of what defines the experiment"
    )
    root: str = key("the folder of all runs")
    dir: str = key("the run folder itself")


@dataclass
class Sweep:
    name: str | None = key("the folder of a multirun; by default made from its overrides")


@dataclass
class Checkpoint:
    every_n_steps: int | None = key("checkpoint every this many optimizer steps; null for never", least=1)
    every_minutes: float | None = key("and whenever this many minutes have passed; null for never", above=0)
    keep_last: int = key("how many of the newest checkpoints of this run are kept", least=1)
    keep_best: int = key("how many of the checkpoints with the lowest validation loss are kept besides", least=0)
    max_gb: float | None = key("remove the oldest checkpoints beyond this many GB; null for no limit", above=0)


@dataclass
class Debug:
    folder: str | None = key("what a debug run makes lies below this folder; null without a debug preset")
    strict: bool = key("a device that is not here is an error instead of a warning")
    clean: bool = key("`python debug.py` clears the debug folder before it starts")
    isolate: bool = key("move every cache of Hugging Face into the debug folder, keeping the login")
    show_data: int | None = key("prepare the data, print so many windows with every token's label, and stop", least=1)


@dataclass
class Model:
    name: str = key("the first part of the run's name")
    parameters: int | None = key("how many parameters the model has; a test counts them", least=1)
    peak_lr: float = key("the peak learning rate that suits this size; optimizer.lr takes it", least=0)
    gradient_checkpointing: bool = key(
        "compute activations again in the backward pass: less memory, about a third slower"
    )
    attention: str = key(
        "transformers' attention kernel", choices=("auto", "eager", "sdpa", "flash_attention_2", "flex_attention")
    )
    compile: Any = key("torch.compile for training steps", choices=("auto", True, False))
    config: Any = key("arguments of the transformers config class named by `_target_`")


@dataclass
class Data:
    name: str = key("the second part of the run's name")
    source: Any = key("where documents come from: a class with `check`, `fingerprint` and `documents`")
    path: str | None = key("a file, a folder or a glob of UTF-8 text")
    limit: float | None = key("use a fraction (at most 1.0) or a number of the documents; null for all", above=0)
    val_fraction: float = key("the share of the documents held out for validation", above=0, most=0.5)
    batch_size: int = key("the sequences per micro-batch and device", least=1)
    num_workers: int = key("the number of loader processes; 0 loads in the training process", least=0)
    prompt: str = key("what samples and generate.py continue; an empty one begins a document")
    packing: bool = key("let documents follow one another in a window; false for a row each, cut or padded")
    prepared: str = key("the folder of tokenizers and token files")


@dataclass
class Optimizer:
    lr: float = key("the peak learning rate", least=0)
    weight_decay: float = key("the decay of matrices; biases and norms have none", least=0)


@dataclass
class Scheduler:
    warmup_steps: int = key("the optimizer steps of linear warm-up", least=0)
    min_lr_ratio: float = key("the last learning rate as a share of the peak", least=0, most=1)


@dataclass
class Trainer:
    """Lightning's own arguments under their own names (a test compares the list with its signature), and `mps_fix`."""

    accelerator: Any = key("auto, cpu, gpu, mps, …")
    strategy: Any = key("auto, ddp, fsdp, …")
    devices: Any = key("how many devices, or which")
    num_nodes: int = key("machines", least=1)
    precision: Any = key("auto, 32-true, bf16-mixed, 16-mixed, bf16-true, …")
    logger: Any = key("use the logger group instead")
    callbacks: Any = key("use the callbacks group instead")
    fast_dev_run: Any = key("true or a number: run so many batches of everything and log nothing")
    max_epochs: int | None = key("stop after so many passes over the data", least=-1)
    min_epochs: int | None = key("do at least so many passes", least=0)
    max_steps: int = key("stop after so many optimizer steps; -1 for no limit", least=-1)
    min_steps: int | None = key("do at least so many optimizer steps", least=0)
    max_time: Any = key("stop after this time, DD:HH:MM:SS")
    limit_train_batches: Any = key("a number or a fraction of the batches of an epoch", least=0)
    limit_val_batches: Any = key("a number or a fraction of the validation batches", least=0)
    limit_test_batches: Any = key("a number or a fraction of the test batches", least=0)
    limit_predict_batches: Any = key("a number or a fraction of the prediction batches", least=0)
    overfit_batches: Any = key("train and validate on so many batches", least=0)
    val_check_interval: Any = key("validate every so many micro-batches, or this fraction of an epoch", above=0)
    check_val_every_n_epoch: int | None = key(
        "validate every so many epochs; null to count batches across epochs", least=1
    )
    num_sanity_val_steps: int | None = key("validation batches before the first step", least=-1)
    log_every_n_steps: int | None = key("log metrics every so many optimizer steps", least=1)
    enable_checkpointing: bool | None = key("whether checkpoints are written")
    enable_progress_bar: bool | None = key("whether there is a progress bar")
    enable_model_summary: bool | None = key("whether Lightning prints its table of layers")
    accumulate_grad_batches: int = key("micro-batches per optimizer step", least=1)
    gradient_clip_val: float | None = key("use callbacks.nan_guard.max_grad_norm instead")
    gradient_clip_algorithm: str | None = key("use callbacks.nan_guard instead")
    deterministic: Any = key("true, false or warn")
    benchmark: bool | None = key("let cuDNN choose kernels by timing them")
    inference_mode: bool = key("validate under inference_mode")
    use_distributed_sampler: bool = key("always false here: the order is a function of seed, epoch and position")
    profiler: Any = key("simple, advanced, pytorch or a _target_")
    detect_anomaly: bool = key("autograd's anomaly detection: slow, names the operation of a NaN")
    barebones: bool = key("everything off, to measure overhead")
    plugins: Any = key("Lightning plugins by _target_")
    sync_batchnorm: bool = key("Lightning's own")
    reload_dataloaders_every_n_epochs: int = key("Lightning's own", least=0)
    default_root_dir: str | None = key("always the run folder")
    enable_autolog_hparams: bool = key("Lightning's own")
    model_registry: str | None = key("Lightning's own")
    mps_fix: bool = key("on Apple GPUs, use the attention that does not make NaN of padded rows")


@dataclass
class Root:
    seed: int = key("everything random; 0 is a seed like any other", least=0)
    resume: str = key(
        "continue this run's own newest checkpoint, or start a fresh folder beside it", choices=("auto", "never")
    )
    resume_from: str | None = key("start from elsewhere: a run folder, a checkpoint folder, or latest")
    run: Run = field(default_factory=Run)
    sweep: Sweep = field(default_factory=Sweep)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    debug: Debug = field(default_factory=Debug)
    env: Any = key("environment variables, set before anything heavy is imported")
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    scheduler: Scheduler = field(default_factory=Scheduler)
    trainer: Trainer = field(default_factory=Trainer)
    callbacks: Any = key("Lightning callbacks, one mapping each")
    logger: Any = key("Lightning loggers, one mapping each")
