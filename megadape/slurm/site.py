"""What a cluster wants to know of every job: configs/clusters/*.yaml."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from megadape.settings import Settings
from megadape.slurm.values import (
    Constraint,
    FilePath,
    Hosts,
    Image,
    LogName,
    Memory,
    Module,
    Mount,
    Variable,
    VariableValue,
    Word,
    Words,
)
from megadape.training.supervision.durations import Duration

SECRET = re.compile(r"TOKEN|SECRET|PASS(WORD|WD)|CREDENTIAL|API_?KEY|PRIVATE|JWT", re.IGNORECASE)
"""Names of variables whose values are nobody's business."""


class ContainerSettings(Settings):
    """Where the programs run, if not on the node itself."""

    image: Image
    """A file, or the address of a registry."""

    mounts: tuple[Mount, ...] = ()
    """Folders of the node: /there, /there:/here or /there:/here:ro. The run folder and the data must be among them."""

    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """pyxis: srun starts the container (--container-image); apptainer: apptainer exec does."""


class SiteSettings(Settings):
    """A cluster, and how much of it a job takes."""

    account: Word | None = None
    """Who pays."""

    partition: Words | None = None
    """One, or several with commas between them; null: the default one."""

    qos: Word | None = None
    """Quality of service."""

    reservation: Word | None = None
    """Nodes kept for somebody."""

    constraint: Constraint | None = None
    """Features that nodes must have, such as h100&ib."""

    exclude: Hosts | None = None
    """Nodes that are not wanted, such as gpu-a[001-003,007]."""

    nodes: int = Field(default=1, ge=1)
    """Nodes of a job."""

    gpus_per_node: int = Field(default=8, ge=0)
    """GPUs of a node, one rank each; 0: ranks run on CPUs."""

    gpu_type: Word | None = None
    """Kind of GPU, where nodes have several."""

    gpu_memory: float = Field(default=80.0, gt=0)
    """GiB of one GPU: a run that needs more is refused before it is submitted."""

    ranks_per_node: int | None = Field(default=None, ge=1)
    """Ranks of a node where there are no GPUs; null: as many as GPUs, or else 1."""

    cpus_per_rank: int = Field(default=8, ge=1)
    """CPUs of a rank."""

    memory: Memory | None = None
    """Of a node, such as 500G; 0: all of it; null: the partition's default."""

    exclusive: bool = False
    """Share nodes with nobody."""

    time: Duration = Field(default=86400.0)
    """Limit of a job, such as 24h or 1d12h; a run that needs longer goes on by itself."""

    lead: Duration = Field(default=300.0)
    """How long before its limit a job is told to save: longer than a step and a save take."""

    log: LogName = "%x-%j.log"
    """Of the job; the ranks' own logs are in the run folder, one a node."""

    launcher: Literal["srun", "torchrun"] = "srun"
    """srun: one task a rank; torchrun: one task a node, which starts the ranks."""

    python: FilePath = "python3"
    """The interpreter that has megadape, such as /shared/venv/bin/python."""

    modules: tuple[Module, ...] = ()
    """Loaded before anything runs."""

    environment: dict[Variable, VariableValue] = Field(default_factory=dict)
    """Set before anything runs."""

    container: ContainerSettings | None = None
    """Where the programs run, if not on the node itself."""

    max_restarts: int = Field(default=100, ge=0)
    """How often a job starts itself anew."""

    max_stalls: int = Field(default=3, ge=1)
    """So many starts one after another without a new checkpoint end the job."""

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if SECRET.search(name):
                raise ValueError(f"{name} looks like a secret, which no script may hold: export it before you submit")
        return environment

    @model_validator(mode="after")
    def _parts_agree(self) -> SiteSettings:
        if self.gpus_per_node and self.ranks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"ranks_per_node ({self.ranks_per_node}) must be gpus_per_node ({self.gpus_per_node}): one rank a GPU"
            )
        if self.lead >= self.time:
            raise ValueError(f"lead ({self.lead:g} s) must be below time ({self.time:g} s)")
        return self

    @property
    def local_ranks(self) -> int:
        """Ranks of a node."""
        return self.gpus_per_node or self.ranks_per_node or 1

    @property
    def ranks(self) -> int:
        """In all."""
        return self.nodes * self.local_ranks
