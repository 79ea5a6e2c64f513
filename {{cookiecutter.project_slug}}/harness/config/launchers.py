"""The keys of conf/launcher/: what starts the jobs of a multirun, and how."""

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import Field

from harness.config.kinds import Above0, Count, Positive, Section, Text, extra, key

SbatchValue = Text | Annotated[int, Ge(0)] | bool


class Launcher(Section):
    name: Literal["local", "slurm", "ray"] = key(
        "what starts the jobs of a multirun: the module of that name in harness/launch/"
    )
    jobs: Positive = key("how many jobs of a multirun run at a time")
    # slurm
    partition: Text | None = extra("the partition of SLURM")
    account: Text | None = extra("the account that SLURM charges")
    qos: Text | None = extra("SLURM's quality of service")
    time: Positive | Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] | None = extra(
        "the time limit of a job: minutes, H:M:S or days-hours; a job that needs longer is requeued and goes on"
    )
    gpus_per_node: Count | None = extra("GPUs of a job on a node; null for one each rank, none with trainer=cpu")
    cpus_per_task: Positive | None = extra("CPU cores of each rank")
    mem: Text | None = extra("memory of a job on a node, such as 32GB")
    signal_seconds: Positive = extra("how long before its time is up a job makes its last checkpoint")
    setup: list[Text] = extra("shell lines before training, such as 'module load cuda'")
    sbatch: dict[str, SbatchValue] = extra("any other option of sbatch by its long name: {constraint: a100}")
    # ray
    address: Text | None = extra("the Ray cluster; null starts one on this machine")
    cpus: Above0 | None = extra("CPU cores that a job takes of those of the Ray cluster")
