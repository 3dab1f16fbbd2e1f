"""A Weights & Biases logger that keeps one run per run folder and tells W&B nothing about the machine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment

from pixelgan_lightning.whole_file import whole_file

STEP = "trainer/global_step"
"""The horizontal axis of every panel: the number of training batches."""

RUN_ID = "wandb_id.txt"
"""The file in the run folder that names the W&B run."""

BEST: Mapping[str, Literal["min", "max"]] = {
    "val/reconstruction": "min",
    "val/reconstruction_one_hot": "min",
    "val/log_prob": "max",
    "val/log_prob_lower": "max",
    "val/bits_per_dim": "min",
    "val/bits_per_dim_upper": "min",
    "val/accuracy": "max",
    "val/cluster_accuracy": "max",
    "val/cluster_accuracy_majority": "max",
    "val/cluster_accuracy_hungarian": "max",
    "val/nmi": "max",
    "val/ari": "max",
    "val/categories_used": "max",
    "val/mutual_information": "max",
    "val/marginal_kl": "min",
}
"""Which value of a series is its best; the summary of the run then has it as ``<name>.min`` or ``<name>.max``."""

PRIVATE: Mapping[str, Any] = {
    "disable_git": True,  # a remote's address may hold a token
    "disable_code": True,
    "x_disable_meta": True,  # command line, host, user, paths
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "console": "off",  # what the terminal shows
    "host": "unnamed",
}
"""Settings under which W&B gets what the run logs and nothing else."""

FLUSH_SECONDS = 1.0
"""How much of an offline run a kill may lose; W&B's own value is 15."""


class RunWandbLogger(WandbLogger):
    """Lightning's logger for W&B with four additions.

    - The W&B run belongs to the run folder: its id is kept in ``<save_dir>/wandb_id.txt``, so a fit that is continued
      there, and a test of its checkpoint, go on in the same W&B run.
    - The summary has the best value of each validation series (:data:`BEST`), not only the last one.
    - Nothing is sent but what the run logs: no code, git state, command line, host name, packages or terminal output.
    - The panels' axis is ``trainer/global_step``, the number of training batches.

    Without an account: set ``WANDB_MODE=offline``, later ``wandb sync <run folder>/wandb/offline-run-*``.

    Args:
        project: name of the project in W&B.
        save_dir: folder that W&B writes to; the command line gives the run folder.
        name: of the run; the command line gives the run folder's name.
        id: of the run; None for the one kept in ``save_dir``, or a new one.
        tags: words to find the run by; the command line gives data, prior and labels.
        group: name that runs of one experiment share, for example its seeds.
        notes: a text about the run.
        offline: write to disk only.
        log_model: upload checkpoints as artifacts: True for those there are at the end, "all" for each as it is
            written. Not with ``offline``.

    Raises:
        MisconfigurationException: ``log_model`` with ``offline``.
    """

    def __init__(
        self,
        project: str = "pixelgan",
        save_dir: str = ".",
        name: str | None = None,
        id: str | None = None,
        tags: list[str] | None = None,
        group: str | None = None,
        notes: str | None = None,
        offline: bool = False,
        log_model: Literal["all"] | bool = False,
    ) -> None:
        import wandb  # slow to import, and not needed without this logger

        self._folder, self._keep_id, self._defined = Path(save_dir), id is None, False
        super().__init__(
            project=project,
            save_dir=save_dir,
            name=name,
            id=id or kept_id(self._folder) or uuid.uuid4().hex[:12],
            offline=offline,
            log_model=log_model,
            tags=tags,
            group=group,
            notes=notes,
            settings=wandb.Settings(**PRIVATE, x_transaction_log_flush_interval=FLUSH_SECONDS),
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at first use."""
        run = super().experiment
        if not self._defined:
            self._defined = True
            for name, best in BEST.items():
                run.define_metric(name, step_metric=STEP, step_sync=True, summary=f"{best},last")
            if self._keep_id:
                with whole_file(self._folder / RUN_ID) as unfinished:
                    unfinished.write_text(run.id + "\n")
        return run


def kept_id(folder: Path) -> str | None:
    """The id that ``folder`` keeps; None where it keeps none."""
    file = folder / RUN_ID
    return file.read_text().strip() if file.is_file() else None
