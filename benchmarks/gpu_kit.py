"""Collect what ``make gpu`` needs on a machine without a network: ``make gpu-kit``.

The folder holds the package as its wheel has it, tests, benchmarks, configurations, MNIST and the wheels of those
packages that an image with CUDA, PyTorch and Lightning may lack, for Linux on x86-64 and the Python that is named.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LACKING = ("jsonargparse[signatures]", "wandb")
"""Packages to carry, with everything they need."""
GLIBC = (17, 27, 28)
"""Versions 2.N of the C library that wheels may be made for."""
MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MOST_BYTES = 60_000_000


def collect_code(kit: Path) -> None:
    """The unpacked wheel, and the files of the checkout that the sections read."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(kit / "dist")]
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would pack what an earlier build left there
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (kit / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(kit / "site")
    shutil.rmtree(kit / "dist")
    for name in ("tests", "benchmarks", "configs"):
        shutil.copytree(ROOT / name, kit / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, kit / name)


def collect_data(kit: Path) -> None:
    """MNIST as four gzip files."""
    source = Path(os.environ.get("PIXELGAN_DATA", ROOT / "data")) / "MNIST" / "raw"
    target = kit / "data" / "MNIST" / "raw"
    target.mkdir(parents=True)
    for name in MNIST:
        plain, packed = source / name, source / f"{name}.gz"
        if packed.exists():
            shutil.copy(packed, target)
        elif plain.exists():
            (target / f"{name}.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
        else:
            sys.exit(f"{source} lacks {name}: set PIXELGAN_DATA to the folder that holds MNIST/raw")


def collect_wheels(kit: Path, python: str) -> None:
    """Wheels of :data:`LACKING` and of what they need, from pip's package index; those of an earlier kit stay."""
    if (kit / "wheels").exists():
        return
    platforms = [f"manylinux_2_{n}_x86_64" for n in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--dest", kit / "wheels"]
    for platform in platforms:
        options += ["--platform", platform]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *map(str, options), *LACKING], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", type=Path, default=ROOT / "build" / "gpu-kit", help="folder; wheels in it stay")
    parser.add_argument("--python", default="3.12", help="Python of the machine with the GPU")
    options = parser.parse_args()
    options.kit.mkdir(parents=True, exist_ok=True)
    for old in options.kit.iterdir():
        if old.name != "wheels":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    collect_data(options.kit)
    collect_code(options.kit)
    collect_wheels(options.kit, options.python)
    size = sum(path.stat().st_size for path in options.kit.rglob("*") if path.is_file())
    print(f"{options.kit}: {size / 1e6:.0f} MB")
    if size > MOST_BYTES:
        sys.exit(f"that is more than {MOST_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
