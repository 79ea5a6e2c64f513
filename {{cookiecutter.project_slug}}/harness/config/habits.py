"""Keys and flags that people type out of habit with other tools, and what they are called here."""

from collections.abc import Mapping

HABITS: Mapping[str, str] = {
    **dict.fromkeys(["gradient_accumulation_steps", "grad_accum", "accumulate"], "trainer.accumulate_grad_batches"),
    **dict.fromkeys(["max_steps", "max_iters", "total_steps", "train_steps"], "trainer.max_steps"),
    **dict.fromkeys(["num_train_epochs", "num_epochs", "epochs", "max_epochs"], "trainer.max_epochs"),
    **dict.fromkeys(["gpus", "num_gpus", "n_gpu", "nproc_per_node"], "trainer.devices"),
    **dict.fromkeys(
        ["max_grad_norm", "grad_clip", "gradient_clip_val", "clip_grad"], "callbacks.nan_guard.max_grad_norm"
    ),
    **dict.fromkeys(["save_steps", "save_every", "save_interval"], "checkpoint.every_n_steps"),
    **dict.fromkeys(["save_total_limit"], "checkpoint.keep_last"),
    **dict.fromkeys(["eval_steps", "eval_interval", "eval_every"], "trainer.val_check_interval"),
    **dict.fromkeys(["logging_steps", "log_interval", "log_every"], "trainer.log_every_n_steps"),
    **dict.fromkeys(["output_dir", "out_dir", "save_dir"], "run.root"),
    **dict.fromkeys(["run_name", "exp_name", "name"], "run.name"),
    **dict.fromkeys(["resume_from_checkpoint", "resume_from", "ckpt_path", "checkpoint_path"], "resume_from"),
    **dict.fromkeys(["use_amp", "amp", "fp16", "bf16", "mixed_precision", "precision"], "trainer.precision"),
    **dict.fromkeys(["device", "accelerator"], "trainer.accelerator"),
    "strategy": "trainer.strategy",
    "seed": "seed",
}
# Of these the value is another, too.
VALUES: Mapping[tuple[str, str], str] = {
    ("use_amp", "false"): "32-true", ("amp", "false"): "32-true", ("fp16", "false"): "32-true",
    ("bf16", "false"): "32-true", ("use_amp", "true"): "bf16-mixed", ("amp", "true"): "bf16-mixed",
    ("fp16", "true"): "16-mixed", ("bf16", "true"): "bf16-mixed", ("mixed_precision", "no"): "32-true",
    ("mixed_precision", "fp16"): "16-mixed", ("mixed_precision", "bf16"): "bf16-mixed",
    ("use_amp", ""): "bf16-mixed", ("fp16", ""): "16-mixed", ("bf16", ""): "bf16-mixed",
}  # fmt: skip


def translated(word: str, more: Mapping[str, str]) -> str:
    """Return what `word`, `--max_steps=1` or `use_amp=false`, is here, or an empty text. `more` are further names."""
    name, _, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    key = more.get(name) or HABITS.get(name, "")
    if not key:
        return ""
    return f"{key}={VALUES.get((name, value.lower()), value) or '…'}"
