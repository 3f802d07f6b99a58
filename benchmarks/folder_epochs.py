"""Whole epochs over a folder of photographs as a user sees them, beside a plain PyTorch loop.

    python -m benchmarks.folder_epochs --torch ../torch-env/bin/python
    python -m benchmarks.folder_epochs --torch ../torch-env/bin/python --folder photos --limit 1000 --rounds 3

Ours is ``python -m experiments.finetune`` with its defaults for everything that is not the work itself: ResNet-18
from random weights, 128 px, batch 32, mirror images, Nesterov momentum. The loop reads with PIL as torchvision's
``ImageFolder`` and its transforms do (open, convert, resize, mirror, float, normalise), in a ``DataLoader`` of two
workers, and trains the same network, channels_last. ``--folder`` has one folder of images per class; without it,
JPEGs of 640 × 480 are made up.

An epoch ends when its row is in ``metrics.csv`` (ours) or its loss is known (PyTorch). The first counts from the
start of the process, with an empty cache of decoded images: Python, imports, reading, decoding and compiling are in
it. Programs compiled before are kept between the rounds, so only the first round compiles. Ours also writes a
checkpoint per epoch; the loop writes none. CPU seconds are over all threads and workers.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

NETWORK, MEAN, STD = "resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
WORKERS = 2
POLL_SECONDS = 0.02


class Epoch(NamedTuple):
    """Wall clock and CPU seconds of one epoch."""

    seconds: float
    cpu_seconds: float


def write_photographs(folder: Path, images: int, classes: int, size: tuple[int, int] = (640, 480)) -> Path:
    """``folder/CLASS/NUMBER.jpg``: smooth colours with grain, some 60 kB each; returns ``folder``."""
    rng = np.random.default_rng(0)
    for number in range(images):
        target = folder / f"class{number % classes}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 6, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(target, quality=85)
    return folder


def copy_photographs(source: Path, target: Path, limit: int) -> int:
    """Copy up to ``limit`` (0: all) images, taking the classes in turn, to ``target/train``; how many there are.

    One batch of them is the test split, which has to be there and is outside of the epochs.
    """
    by_class = [sorted(file for file in folder.iterdir() if file.is_file()) for folder in _folders(source)]
    in_turn = [
        files[place] for place in range(max(map(len, by_class))) for files in by_class if place < len(files)
    ]
    chosen = in_turn[: limit or None]
    for split, files in (("train", chosen), ("test", chosen[:32])):
        for file in files:
            folder = target / split / file.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file.name)
    return len(chosen)


def our_flags(photos: Path, workdir: Path, compiled: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of ``experiments.finetune``, ``{name: value}``."""
    return {
        "dataset": f"folder:{photos}",
        "network": NETWORK,
        "pretrained": "none",
        "image_size": arguments.image_size,
        "width": arguments.width,
        "batch_size": arguments.batch,
        "epochs": arguments.epochs,
        "learning_rate": RATE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "bfloat16": str(arguments.bfloat16).lower(),
        "validation_fraction": 0,
        "select_on": "last",
        "workdir": workdir / "run",
        "cache_dir": workdir / "decoded",
        "compilation_cache": compiled,
    }


def ours(photos: Path, scratch: Path, arguments: argparse.Namespace) -> list[Epoch]:
    """Epochs of ``experiments.finetune``."""
    workdir = Path(tempfile.mkdtemp(dir=scratch))
    flags = our_flags(photos, workdir, scratch / "compiled", arguments)
    command = [sys.executable, "-m", "experiments.finetune"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    marks = [(time.monotonic(), 0.0)]
    try:
        while len(marks) <= arguments.epochs:
            ended = process.poll() is not None
            if _rows(workdir / "run" / "metrics.csv") >= len(marks):
                marks.append((time.monotonic(), marks[-1][1] if ended else _cpu_seconds(process.pid)))
            elif ended:
                assert process.stderr is not None
                raise SystemExit(f"experiments.finetune failed:\n{process.stderr.read()}")
            else:
                time.sleep(POLL_SECONDS)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(workdir)
    return _epochs(marks)


def theirs(photos: Path, arguments: argparse.Namespace) -> list[Epoch]:
    """Epochs of the PyTorch loop."""
    command = [arguments.torch, "-m", "benchmarks.folder_epochs", "--worker", str(photos)]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("image_size", "width", "batch", "epochs")]
    command += ["--bfloat16"] * arguments.bfloat16
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    marks = [(began, 0.0)] + [(time.monotonic(), json.loads(line)) for line in process.stdout]
    if process.wait():
        raise SystemExit(f"--torch={arguments.torch}: the PyTorch process failed")
    return _epochs(marks)


def torch_loop(photos: Path, arguments: argparse.Namespace) -> Iterator[float]:
    """Train in this process; CPU seconds so far, after each epoch."""
    import torch
    from torch.nn import functional

    from benchmarks import torch_resnet

    size, folders = arguments.image_size, _folders(photos / "train")
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    class Photographs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            file, label = files[index]
            with Image.open(file) as opened:
                image = opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            if torch.rand(1) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
            return (pixels - mean) / std, label

    loader = torch.utils.data.DataLoader(
        Photographs(), arguments.batch, shuffle=True, drop_last=True, num_workers=WORKERS
    )
    network = torch_resnet.create(NETWORK, len(folders), arguments.width)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), RATE, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    for _ in range(arguments.epochs):
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
                loss = functional.cross_entropy(network(images.to(memory_format=torch.channels_last)), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        # The workers of an epoch have ended with it.
        workers = resource.getrusage(resource.RUSAGE_CHILDREN)
        yield time.process_time() + workers.ru_utime + workers.ru_stime


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir())


def _rows(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open(newline="") as file:
        return len(list(csv.DictReader(file)))


def _cpu_seconds(process: int) -> float:
    """Of all threads of a running process (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _epochs(marks: list[tuple[float, float]]) -> list[Epoch]:
    pairs = itertools.pairwise(marks)
    return [Epoch(after[0] - before[0], after[1] - before[1]) for before, after in pairs]


def _line(name: str, epochs: list[list[Epoch]], images: int) -> str:
    """Medians over the rounds (and later epochs)."""
    first = [run[0] for run in epochs]
    later = [epoch for run in epochs for epoch in run[1:]]
    cells = []
    for kind in (first, later):
        seconds = statistics.median(epoch.seconds for epoch in kind)
        cpu = statistics.median(epoch.cpu_seconds for epoch in kind)
        cells.append(f"{seconds:.1f} s | {images / seconds:.1f} | {cpu:.1f} s")
    return f"| {name} | " + " | ".join(cells) + " |"


def main(words: list[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="of photographs; made up where it is not given")
    parser.add_argument("--limit", type=int, default=3068, help="number of images; 0 takes the whole folder")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels of the network")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--bfloat16", action="store_true", help="our compute type; PyTorch's automatic mixed precision"
    )
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side, in turn")
    parser.add_argument("--torch", default="none", help="interpreter that has PyTorch; none leaves it out")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.epochs < 2:
        parser.error("--epochs starts at 2: there is no later one otherwise")
    if arguments.worker:
        for cpu_seconds in torch_loop(arguments.worker, arguments):
            print(cpu_seconds, flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source = arguments.folder or write_photographs(scratch / "made", arguments.limit or 3068, classes=10)
        images = copy_photographs(source, scratch / "photos", arguments.limit)
        runs: dict[str, list[list[Epoch]]] = {"ours": [], "PyTorch": []}
        for _ in range(arguments.rounds):
            runs["ours"].append(ours(scratch / "photos", scratch, arguments))
            if arguments.torch != "none":
                runs["PyTorch"].append(theirs(scratch / "photos", arguments))
    print(f"{images} images of {arguments.image_size} px, {NETWORK}, batch {arguments.batch}")
    print("| side | first epoch | images/s | CPU | later epochs | images/s | CPU |\n" + "|---" * 7 + "|")
    for name, epochs in runs.items():
        if epochs:
            print(_line(name, epochs, images))
    for number in range(arguments.rounds if runs["PyTorch"] else 0):
        first, *later = [
            b.seconds / a.seconds for a, b in zip(runs["ours"][number], runs["PyTorch"][number], strict=True)
        ]
        print(
            f"round {number + 1}, PyTorch's time / ours: first {first:.2f}, later {statistics.median(later):.2f}"
        )


if __name__ == "__main__":
    main()
