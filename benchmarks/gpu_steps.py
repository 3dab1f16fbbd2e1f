"""Sections of ``make gpu``: the training step of ``benchmarks/step.yaml`` in images/s, and its profile.

The step is run by the command line, as users run it: with loader, logs and checks. Beside it: the same mathematics as
a bare loop of PyTorch over images that lie on the device, and that loop as one CUDA graph.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import yaml
from gpu_result import result
from gpu_timing import device, seconds_per_call, set_precision, synchronise
from torch import Tensor

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.cli import main as command_line

CONFIG = Path(__file__).resolve().parent / "step.yaml"


class Clock(pl.Callback):
    """Times training steps, from the end of a warm-up to the end of ``seconds``, and stops the run.

    Args:
        warmup: steps before.
        seconds: how long.
        compiled: ``torch.compile`` the networks before.
        profile: file for a table of the operations of three steps in place of times; None for times.
        precision: ``fp32`` or ``tf32``, set when training starts; ``bf16`` is the trainer's.
        steps: how many, in place of ``seconds``: of several processes each has a clock of its own.
    """

    last: dict[str, float]
    refusal: str | None
    """Why the steps of the last run were no CUDA graphs; None where they were, or nobody asked for them."""

    def __init__(
        self,
        warmup: int,
        seconds: float,
        precision: str,
        compiled: bool = False,
        profile: str | None = None,
        steps: int | None = None,
    ) -> None:
        self.warmup, self.seconds, self.precision, self.most = warmup, seconds, precision, steps
        self.compiled, self.profile = compiled, profile
        self.steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        set_precision(self.precision)
        if self.compiled:
            for network in (pl_module.encoder, pl_module.decoder, pl_module.discriminator):
                network.compile()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        if self.steps == self.warmup:
            synchronise()
            self.start = time.perf_counter()
            if self.profile is not None:
                self.profiler = torch.profiler.profile()
                self.profiler.start()
        if self.steps <= self.warmup:
            return
        timed = self.steps - self.warmup
        if self.profile is not None and timed == 3:
            synchronise()
            self.profiler.stop()
            averages = self.profiler.key_averages()
            by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            text = averages.table(sort_by=by, row_limit=40, max_name_column_width=60)
            by_host = averages.table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60)
            Path(self.profile).write_text(f"Three steps of a batch.\n\n{text}\n\n{by_host}\n")
            Clock.last = {}
            trainer.should_stop = True
            return
        over = time.perf_counter() - self.start > self.seconds if self.most is None else timed == self.most
        if self.profile is None and over:
            synchronise()
            size = trainer.world_size * len(batch["unlabelled"]["image"])
            seconds = (time.perf_counter() - self.start) / timed
            Clock.last = {"ms": 1000 * seconds, "images_per_second": size / seconds}
            Clock.refusal = getattr(pl_module._executor, "refusal", "this device has none")
            trainer.should_stop = True


def lightning_step(
    batch: int, precision: str, seconds: float, graphs: bool = False, **options: Any
) -> dict[str, float]:
    """Milliseconds and images per second of a step as the command line runs it.

    Raises:
        RuntimeError: steps on a GPU were to be graphs and were not.
    """
    clock = {"class_path": "gpu_steps.Clock", "init_args": {"seconds": seconds, "precision": precision, **options}}
    trainer = {
        "callbacks": [clock], "limit_val_batches": 0, "num_sanity_val_steps": 0, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "max_epochs": 1000,
        "precision": "bf16-mixed" if precision == "bf16" else "32-true",
    }  # fmt: skip
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        trainer |= {"strategy": "ddp", "devices": processes, "accelerator": device().type}
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "overlay.yaml"
        overlay.write_text(yaml.safe_dump({"trainer": trainer, "data": {"init_args": {"batch_size": batch}}}))
        configs = ["--config", str(CONFIG), "--config", str(overlay)]
        command_line(["fit", *configs, "--run_dir", f"{folder}/run", "--cuda_graphs", str(graphs).lower()])
    if graphs and device().type == "cuda" and Clock.refusal is not None:
        raise RuntimeError(f"no graphs: {Clock.refusal}")
    return Clock.last


class BareLoop:
    """The three phases of the configuration in plain PyTorch: no Lightning, no logs, no checks, images on the device.

    Args:
        batch: images in a step.
        precision: see :data:`gpu_timing.PRECISIONS`.
        model: with a categorical prior and a Bernoulli likelihood; None: that of the configuration.
    """

    def __init__(self, batch: int, precision: str, model: PixelGAN | None = None) -> None:
        self.autocast = set_precision(precision)
        self.model = (configured_model() if model is None else model).to(device()).train()
        m, fused = self.model, torch.cuda.is_available()
        recognition = [*m.encoder.parameters(), *m.posterior.parameters()]
        options: dict[str, Any] = {"fused": True, "capturable": fused}
        self.both = torch.optim.Adam([{"params": m.decoder.parameters()}, {"params": recognition, "lr": 3e-4}],
                                     lr=1e-3, **options)  # fmt: skip
        self.judge = torch.optim.Adam(m.discriminator.parameters(), lr=5e-4, betas=(0.5, 0.999), **options)
        self.forger = torch.optim.Adam(recognition, lr=5e-4, betas=(0.5, 0.999), **options)
        self.images = torch.rand(batch, *m.image_shape, device=device())

    def step(self) -> None:
        m = self.model
        x = (torch.rand_like(self.images) < self.images).float()
        with self.autocast:
            params = m.decoder(x, self._codes(x))
        loss = -m.likelihood.log_prob(params.float(), x).mean()
        self._move(self.both, loss)
        with torch.no_grad(), self.autocast:
            fake = self._codes(x)
        k = m.prior.code_dim
        real = F.one_hot(torch.randint(k, (len(x),), device=x.device), k).float()
        with self.autocast:
            on_real, on_fake = self._judged(real), self._judged(fake)
        self._move(self.judge, 0.5 * (F.softplus(-on_real.float()).mean() + F.softplus(on_fake.float()).mean()))
        with self.autocast:
            judged = self._judged(self._codes(x))
        self._move(self.forger, F.softplus(-judged.float()).mean())

    def _codes(self, x: Tensor) -> Tensor:
        codes: Tensor = self.model.posterior(self.model.encoder(x))
        return codes

    def _judged(self, z: Tensor) -> Tensor:
        judged: Tensor = self.model.discriminator(z + 0.2 * torch.randn_like(z))
        return judged

    @staticmethod
    def _move(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        mine = [p for group in optimizer.param_groups for p in group["params"]]
        for p, gradient in zip(mine, torch.autograd.grad(loss, mine), strict=True):
            p.grad = gradient
        optimizer.step()

    def compile(self) -> None:
        for network in (self.model.encoder, self.model.decoder, self.model.discriminator):
            network.compile()

    def graph(self) -> Any:
        """The whole step as one CUDA graph; what it returns runs it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


def configured_model(config: Path = CONFIG, side: int = 28) -> PixelGAN:
    """The networks of a configuration of grey images, built by its own classes."""
    model = dict(yaml.safe_load(config.read_text())["model"])
    packages = {"prior": "priors", "posterior": "posteriors", "encoder": "encoders", "decoder": "decoders"}
    packages |= {"likelihood": "likelihoods", "discriminator": "discriminators"}
    components = {}
    for name, package in packages.items():
        component = dict(model[name])
        component["class_path"] = f"pixelgan_lightning.{package}.{component['class_path']}"
        components[name] = component
    return PixelGAN((1, side, side), 10, **components)


def guarded(what: dict[str, Any], measure: Any) -> None:
    """One result; what goes wrong is one too, and the rest goes on."""
    try:
        result(**what, **measure())
    except (Exception, SystemExit) as error:
        result(**what, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    torch._dynamo.reset()


def bare(batch: int, precision: str, seconds: float, how: str) -> dict[str, float]:
    """Milliseconds and images per second of the bare loop: ``eager``, ``compiled``, ``graph`` or both at once."""
    loop = BareLoop(batch, precision)
    if "compiled" in how:
        loop.compile()
    step = loop.graph() if "graph" in how else loop.step
    per_step = seconds_per_call(step, seconds)
    return {"ms": 1000 * per_step, "images_per_second": batch / per_step}


def measure_processes(batches: Sequence[int], warmup: int, steps: int) -> None:
    """The step in each of the processes that torchrun has started, or in this one; the first process tells."""
    for batch in batches:
        step = lightning_step(batch, "tf32", 0, warmup=warmup, steps=steps)
        if os.environ.get("RANK", "0") == "0":
            result(processes=int(os.environ.get("WORLD_SIZE", 1)), batch_of_each=batch, precision="tf32", **step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("eager", "compiled", "profile", "processes"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--batches", type=int, nargs="+", default=(100, 500, 2000))
    parser.add_argument("--precisions", nargs="+", choices=("tf32", "fp32", "bf16"))
    options = parser.parse_args()
    batches, seconds = (options.batches, 1.5) if not options.small else ((4,), 0.05)
    warmup, graphs = 1 if options.small else 10, torch.cuda.is_available()
    if options.mode == "profile":
        file = str(options.out / "profile.txt")
        guarded({"profile": file}, lambda: lightning_step(batches[0], "tf32", 60, warmup=warmup, profile=file))
        return
    if options.mode == "processes":
        measure_processes(batches, warmup, 2 if options.small else 200)
        return
    # The time may end before the list: what training uses comes first.
    precisions = options.precisions or (["bf16", "tf32", "fp32"] if options.mode == "eager" else ["bf16", "tf32"])
    precisions = precisions[:1] if options.small else precisions
    pairs = list(itertools.product(batches, precisions))
    compiled = options.mode == "compiled"
    for batch, precision in pairs:
        what = {"batch": batch, "precision": precision}
        hows = ["compiled", "compiled graph"] if compiled else ["eager", "graph"]
        for graph in (True, False):
            # A step that is logged, one of 50, is recorded as a graph the third time.
            steps_before = 155 if graph and graphs and batch <= 500 else warmup
            loop = f"pixelgan fit{', compiled' * compiled}{', graph' * graph}"
            guarded(
                {"loop": loop, **what},
                lambda b=batch, p=precision, g=graph, w=steps_before: lightning_step(
                    b, p, seconds, graphs=g, warmup=w, compiled=compiled
                ),
            )
        for how in hows:
            if "graph" in how and not graphs:
                continue
            guarded({"loop": f"bare, {how}", **what}, lambda b=batch, p=precision, h=how: bare(b, p, seconds, h))


if __name__ == "__main__":
    sys.modules["gpu_steps"] = sys.modules["__main__"]  # the configuration names the callback by this module
    main()
