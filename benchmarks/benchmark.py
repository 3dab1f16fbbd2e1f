"""Measure speed against this machine's own limits; ``make bench``.

Writes ``results.json`` beside this file and ``docs/benchmarks.md``, and prints the table. Only ratios of one run mean
anything: everything that is compared is measured in the same process, in turns where possible, and the median counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import frozen
import overhead
import torch
from timing import conv_flops, conv_speed, conv_works, machine, median_seconds, seconds_of_each
from torch import Tensor

from pixelgan_lightning import PixelGAN
from pixelgan_lightning.decoders import GatedPixelCNN, draw_uniforms
from pixelgan_lightning.encoders import ConvEncoder
from pixelgan_lightning.likelihoods import Bernoulli
from pixelgan_lightning.training.memory import reuse_memory

HERE = Path(__file__).parent
Results = dict[str, Any]


def reference_net(channels: int = 32, layers: int = 7, side: int = 28) -> GatedPixelCNN:
    """Binary images, a code of 10 numbers."""
    return GatedPixelCNN(channels=channels, layers=layers).build((1, side, side), 10, Bernoulli())


def forward_flops(decoder: GatedPixelCNN) -> float:
    """Useful arithmetic of one pass for one image: two for every weight of a convolution at every pixel.

    Leaves out additions of biases, the functions of the gates, and what the code costs.
    """
    _, height, width = decoder.image_shape
    code = {id(p) for layer in decoder.gated_layers() if layer.bias is not None for p in layer.bias.parameters()}
    weights = [p for p in decoder.parameters() if p.dim() == 4 and id(p) not in code]
    return 2.0 * height * width * sum(p.numel() for p in weights)


def inputs(decoder: GatedPixelCNN, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, codes, uniforms."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *decoder.image_shape, generator=generator).round()
    z = torch.randn(batch, 10, generator=generator)
    return x, z, draw_uniforms(decoder, batch, generator, z)


@torch.no_grad()
def sampling(repeats: int, batches: tuple[int, ...]) -> Results:
    """Seconds per image of the samplers, relative to a pass for every pixel and to the arithmetic of one pass."""
    decoder = reference_net()
    pixels = decoder.image_shape[1] * decoder.image_shape[2]
    results: Results = {"naive": {}, "cached": {}}
    samplers = {"cached": "incremental"}
    try:
        import numba  # noqa: F401
    except ImportError:
        print("numba is not installed: the compiled sampler is left out", file=sys.stderr)
    else:
        samplers["compiled"] = "compiled"
        results["compiled"] = {}
    for batch in batches:
        x, z, uniforms = inputs(decoder, batch)
        floor = forward_flops(decoder) / conv_speed(32, backward=False)
        # One pass stands for all of them: a pass for every pixel takes minutes.
        naive = median_seconds(lambda x=x, z=z: frozen.forward(decoder, x, z), repeats) * pixels / batch
        results["naive"][str(batch)] = {"seconds_per_image": naive, "times_floor": naive / floor}
        for name, sampler in samplers.items():
            decoder.sampler = sampler  # type: ignore[assignment]
            seconds = median_seconds(lambda z=z, u=uniforms: decoder.sample(z, u), repeats) / batch
            results[name][str(batch)] = {
                "seconds_per_image": seconds,
                "times_naive": naive / seconds,
                "times_floor": seconds / floor,
            }
    return results


def training(repeats: int, compiled: bool) -> Results:
    """Forward, backward and an Adam step of the decoder, as a share of the convolution's speed."""
    results: Results = {}
    batch = 64
    for channels in (32, 64):
        torch._dynamo.reset()
        decoder = reference_net(channels)
        start = time.perf_counter()
        if compiled:
            decoder.compile()
        x, z, _ = inputs(decoder, batch)
        step = _training_step(decoder, x, z)
        step()
        first = time.perf_counter() - start
        times = seconds_of_each([step, *conv_works(channels, backward=True)], repeats, warmups=2)
        seconds, *conv = map(statistics.median, times)
        speed = 3 * batch * forward_flops(decoder) / seconds
        limit = conv_flops(channels, backward=True) / min(conv)
        results[str(channels)] = {
            "images_per_second": batch / seconds,
            "gflops": speed / 1e9,
            "conv_gflops": limit / 1e9,
            "share_of_conv": speed / limit,
            "first_step_seconds": first,
        }
    return results


def _training_step(decoder: GatedPixelCNN, x: Tensor, z: Tensor) -> Any:
    optimizer = torch.optim.Adam(decoder.parameters())

    def step() -> None:
        optimizer.zero_grad()
        (-decoder.likelihood.log_prob(decoder(x, z), x).mean()).backward()
        optimizer.step()

    return step


def whole_step(repeats: int) -> Results:
    """The three phases of ``benchmarks/step.yaml`` relative to its decoder's own training step, and fused."""
    sequential, fused = (_phases_and_decoder(repeats, step) for step in ("sequential", "fused"))
    ratio = fused["over_decoder"] / sequential["over_decoder"]
    return {**sequential, "fused_over_sequential": ratio}


def _phases_and_decoder(repeats: int, step_kind: str) -> Results:
    import pytorch_lightning as pl
    import yaml

    batch = 100
    config = yaml.safe_load((HERE / "step.yaml").read_text())["model"]
    model = PixelGAN((1, 28, 28), 10, step=step_kind, **config)  # type: ignore[arg-type]
    x = torch.rand(batch, 1, 28, 28).round()
    batches = [{"unlabelled": {"image": x, "index": torch.arange(batch)}}] * (repeats + 2)

    by_phase: dict[str, list[float]] = {}

    run_phase = model.step.run_phase

    def timed(name: str, *args: Any, **more: Any) -> None:  # the fused step does not call it
        start = time.perf_counter()
        run_phase(name, *args, **more)
        by_phase.setdefault(name, []).append(time.perf_counter() - start)

    model.step.run_phase = timed  # type: ignore[method-assign]

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.whole: list[float] = []
            self.own: list[float] = []

        def on_train_batch_start(self, *_: Any) -> None:
            step()
            start = time.perf_counter()
            step()
            self.own.append(time.perf_counter() - start)
            self.start = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            self.whole.append(time.perf_counter() - self.start)

    decoder = PixelGAN((1, 28, 28), 10, **config).decoder
    assert isinstance(decoder, GatedPixelCNN)
    step = _training_step(decoder, x, torch.eye(30)[torch.arange(batch) % 30])
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[clock], default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    whole, own = statistics.median(clock.whole[2:]), statistics.median(clock.own[2:])
    return {
        "seconds": whole,
        "decoder_seconds": own,
        "over_decoder": whole / own,
        "images_per_second": batch / whole,
        "images_per_second_by_phase": {name: batch / statistics.median(t[2:]) for name, t in by_phase.items()},
    }


def memory(repeats: int) -> Results:
    """Training steps that reuse the memory of the one before, relative to those that get it from the system."""
    decoder, encoder = reference_net(), ConvEncoder().build((1, 28, 28))
    x, z, _ = inputs(decoder, 64)
    batch = torch.rand(500, 1, 28, 28)

    def encode() -> None:
        encoder(batch).square().mean().backward()

    steps = {"decoder": _training_step(decoder, x, z), "encoder": encode}
    before = {name: median_seconds(step, repeats, warmups=2) for name, step in steps.items()}
    usable = reuse_memory()
    after = {name: median_seconds(step, repeats, warmups=2) for name, step in steps.items()}
    return {"usable": usable, **{f"{name}_reused_over_not": after[name] / before[name] for name in steps}}


@torch.no_grad()
def exact_likelihood(repeats: int) -> Results:
    """K passes for ``log p(x)`` under a categorical prior, relative to K forwards."""
    model = PixelGAN(decoder={"class_path": "pixelgan_lightning.decoders.GatedPixelCNN", "init_args": {}})
    batch, k = 32, 10
    x, z = torch.rand(batch, 1, 28, 28).round(), torch.eye(k)[torch.arange(batch) % k]
    times = seconds_of_each([lambda: model.log_joint(x), lambda: model.decoder(x, z)], repeats)
    passes, forward = map(statistics.median, times)
    return {"categories": k, "seconds": passes, "times_forwards": passes / (k * forward)}


@torch.no_grad()
def scaling(repeats: int) -> Results:
    """Slope of log time over log size of one pass, beside that of its arithmetic."""
    sweeps: dict[str, list[dict[str, int]]] = {
        "channels": [{"channels": n} for n in (16, 32, 64)],
        "layers": [{"layers": n} for n in (3, 7, 14)],
        "side": [{"side": n} for n in (14, 28, 56)],
        "batch": [{"batch": n} for n in (4, 16, 64)],
    }
    results = {}
    for name, sizes in sweeps.items():
        sizes_, seconds, flops = [], [], []
        for size in sizes:
            options = dict(size)
            batch = options.pop("batch", 16)
            decoder = reference_net(**options)
            x, z, _ = inputs(decoder, batch)
            seconds.append(median_seconds(lambda d=decoder, x=x, z=z: d(x, z), repeats, warmups=2))
            flops.append(batch * forward_flops(decoder))
            sizes_.append(size[name])
        results[name] = {"slope": _slope(sizes_, seconds), "expected": _slope(sizes_, flops)}
    return results


def _slope(sizes: list[int], values: list[float]) -> float:
    """Of the least-squares line through the logarithms."""
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    return statistics.linear_regression(x, y).slope


def loading(repeats: int) -> Results:
    """Seconds of a batch of 100 binarised 28x28 images, as a loader draws it from memory."""
    images = torch.rand(10_000, 1, 28, 28)

    def batch() -> None:
        index = torch.randperm(len(images))[:100]
        (images[index] > torch.rand(100, 1, 28, 28)).float()

    return {"seconds_per_batch": median_seconds(batch, 10 * repeats)}


RANK_PROGRAM = """
import sys, time, torch, torch.distributed as dist
sys.path.insert(0, {here!r})
from benchmark import reference_net, inputs, _training_step
import statistics
dist.init_process_group("gloo", init_method="file://{rendezvous}", rank=int(sys.argv[1]), world_size={processes})
torch.set_num_threads({threads})
decoder = reference_net()
x, z, _ = inputs(decoder, {batch})
net = torch.nn.parallel.DistributedDataParallel(decoder) if {processes} > 1 else decoder
optimizer = torch.optim.Adam(net.parameters())
times = []
for _ in range({repeats} + 2):
    start = time.perf_counter()
    optimizer.zero_grad()
    (-decoder.likelihood.log_prob(net(x, z), x).mean()).backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
if dist.get_rank() == 0:
    print(statistics.median(times[2:]))
dist.destroy_process_group()
"""


def processes(repeats: int) -> Results:
    """A step on a global batch of 64 by two processes with one thread each, relative to one process with two."""
    seconds = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            program = RANK_PROGRAM.format(
                here=str(HERE), rendezvous=f"{folder}/store", processes=count, threads=2 // count,
                batch=64 // count, repeats=repeats,
            )  # fmt: skip
            command = [sys.executable, "-c", program]
            ranks = [subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE, text=True) for r in range(count)]
            outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
            if any(rank.returncode for rank in ranks):
                raise RuntimeError(f"a rank of {count} ended with an error")
            seconds[count] = float(outputs[0].split()[-1])
    return {"one_process": seconds[1], "two_processes": seconds[2], "two_over_one": seconds[2] / seconds[1]}


def table(results: Results) -> str:
    """The page of the documentation."""
    m = results["machine"]
    lines = [
        "# Benchmarks",
        "",
        f"`{m['command']}` wrote this page and `benchmarks/results.json`; `make bench` is the same with 5 repeats.",
        "Take ratios, not times.",
        "",
        f"Machine: {m['cpu']}, {m['instructions']}, {m['threads']} threads, torch {m['torch']}, Python {m['python']}. "
        f"Its 3x3 convolution, 32 to 32 channels: {m['conv_gflops']:.0f} GFLOP/s forward.",
        "",
        "## Sampling",
        "",
        "1x28x28, Bernoulli, 32 channels, 7 gated layers. The floor is the useful arithmetic of one pass at the speed "
        "of the convolution; naive is a frozen copy of the network with a pass for every pixel (one is timed).",
        "",
        "| sampler | batch | s / image | x naive | x floor |",
        "|---|---|---|---|---|",
    ]
    for (name, by_batch), batch in itertools.product(results["sampling"].items(), results["sampling"]["naive"]):
        r = by_batch[batch]
        times = r.get("times_naive", 1.0)
        lines.append(f"| {name} | {batch} | {r['seconds_per_image']:.4f} | {times:.0f} | {r['times_floor']:.1f} |")
    lines += [
        "",
        "## Training",
        "",
        "Forward, backward and Adam step of the decoder, batch 64; useful arithmetic only, as a share of the forward "
        "and backward pass of a 3x3 convolution with as many channels. On a CPU `torch.compile` leaves the "
        "layers alone, which are written out by hand: the two modes differ by what surrounds them.",
        "",
        "| mode | channels | images / s | GFLOP/s | share of convolution | first step, s |",
        "|---|---|---|---|---|---|",
    ]
    for mode, by_channels in results["training"].items():
        for channels, r in by_channels.items():
            lines.append(
                f"| {mode} | {channels} | {r['images_per_second']:.0f} | {r['gflops']:.0f} | "
                f"{100 * r['share_of_conv']:.0f} % | {r['first_step_seconds']:.1f} |"
            )
    step, exact = results["step"], results["exact_likelihood"]
    lines += [
        "",
        "## The rest",
        "",
        "| what | measured |",
        "|---|---|",
        f"| all phases of `benchmarks/step.yaml`, times its decoder's own step | {step['over_decoder']:.2f} |",
        *(
            f"| its {name} phase, images / s | {speed:.0f} |"
            for name, speed in step["images_per_second_by_phase"].items()
        ),
        f"| the fused step of it, times the sequential phases | {step['fused_over_sequential']:.2f} |",
        f"| exact log p(x), times {exact['categories']} forwards | {exact['times_forwards']:.2f} |",
        *(
            f"| {what}'s training step that reuses memory, times one that does not | {results['memory'][key]:.2f} |"
            for what, key in (("a decoder", "decoder_reused_over_not"), ("an encoder", "encoder_reused_over_not"))
        ),
        f"| drawing a batch, share of a step | {100 * results['loader']['share_of_step']:.2f} % |",
        "| a step of a tiny model in `Trainer.fit`, beside the same mathematics in a bare loop, ms | "
        f"{results['overhead']['plain_ms']:.1f} ({results['overhead']['fit_ms']:.1f} - "
        f"{results['overhead']['bare_ms']:.1f}) |",
        f"| two processes on half the batch each, times one process | {results['processes']['two_over_one']:.2f} |",
    ]
    for name, r in results["scaling"].items():
        lines.append(f"| exponent of time in {name} (of the arithmetic: {r['expected']:.2f}) | {r['slope']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement; the median counts")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256], help="of the samplers")
    parser.add_argument("--out", type=Path, default=HERE.parent, help="folder that gets benchmarks/ and docs/")
    args = parser.parse_args()
    torch.manual_seed(0)
    started = time.perf_counter()

    results: Results = {"machine": machine()}
    batches = " ".join(map(str, args.batches))
    results["machine"]["command"] = f"benchmarks/benchmark.py --repeats {args.repeats} --batches {batches}"
    results["memory"] = memory(args.repeats)  # from here on it is reused, as the command line does
    results["machine"]["conv_gflops"] = conv_speed(32, backward=False) / 1e9
    results["sampling"] = sampling(args.repeats, tuple(args.batches))
    results["training"] = {
        "eager": training(args.repeats, compiled=False),
        "compiled": training(args.repeats, compiled=True),
    }
    results["step"] = whole_step(args.repeats)
    results["exact_likelihood"] = exact_likelihood(args.repeats)
    results["loader"] = loading(args.repeats)
    results["loader"]["share_of_step"] = results["loader"]["seconds_per_batch"] / results["step"]["seconds"]
    results["scaling"] = scaling(args.repeats)
    results["overhead"] = overhead.measured(args.repeats)
    results["processes"] = processes(args.repeats)
    results["seconds"] = time.perf_counter() - started

    page = table(results)
    for name, text in (("benchmarks/results.json", json.dumps(results, indent=2) + "\n"), ("docs/benchmarks.md", page)):
        path = args.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(page)


if __name__ == "__main__":
    main()
