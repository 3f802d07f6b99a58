"""A run in JAX and as ONNX files of three precisions, side by side: images per second, and accuracy on its test split.

    python -m benchmarks.exported RUN --seconds=2 --rounds=5

Rounds take turns, so that what else the machine does meets all alike; a rate is the median round. All see the same
uint8 pixels at the size of the network, so decoding is in none of them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.files.run_directory import data_config_of
from finetune_jax.models.card import read_best
from finetune_jax.models.normalization import normalizer
from finetune_jax.runs import export
from finetune_jax.training import evaluation

BATCHES = (1, 32)
_CALIBRATION = 64

Predict = Callable[[np.ndarray], np.ndarray]


def in_jax(run: Path) -> Predict:
    """The run itself, uint8 ``[N, H, W, C]`` to probabilities."""
    card, variables = read_best(run)
    logits = evaluation.classifier(card.model(), normalizer(card.mean, card.std))
    placed = jax.device_put(variables)
    function = jax.jit(lambda variables, images: jax.nn.softmax(logits(variables, images)))
    return lambda images: np.asarray(function(placed, images))


def in_onnxruntime(file: Path) -> Predict:
    """An exported file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {export.INPUT: images})[0], np.float32)


def rates(
    sides: Mapping[str, Predict], images: np.ndarray, *, rounds: int, seconds: float
) -> dict[str, dict[int, float]]:
    """Images per second of each side and batch size, median of the rounds."""
    samples: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCHES} for name in sides}
    for size in BATCHES:
        batch = np.resize(images, (size, *images.shape[1:]))
        for predict in sides.values():
            predict(batch)  # compiles
        for _ in range(rounds):
            for name, predict in sides.items():
                start, count = time.perf_counter(), 0
                while time.perf_counter() - start < seconds:
                    predict(batch)
                    count += size
                samples[name][size].append(count / (time.perf_counter() - start))
    return {
        name: {size: statistics.median(values) for size, values in of_side.items()}
        for name, of_side in samples.items()
    }


def predictions(predict: Predict, images: np.ndarray) -> np.ndarray:
    """The likeliest class of each image, ``[N]``."""
    step = BATCHES[-1]
    padded = np.concatenate([images, np.zeros((-len(images) % step, *images.shape[1:]), np.uint8)])
    parts = [predict(padded[start : start + step]) for start in range(0, len(padded), step)]
    return np.concatenate(parts)[: len(images)].argmax(1)


def main(arguments: list[str] | None = None) -> None:
    """Export, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    card, _ = read_best(options.run)
    config = data_config_of(options.run)
    examples = datasets.load_source(config, silent=True).splits["test"]
    test = datasets.materialise_split(config, examples, card.preprocessing, silent=True, title="")
    images = np.asarray(test.images)
    calibration = export.images_of(options.run, _CALIBRATION, "train")
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        seconds = {}
        for precision in export.PRECISIONS:
            began = time.perf_counter()
            files[precision] = Path(folder, f"{precision}.onnx")
            export.export(
                options.run, files[precision], format="onnx", precision=precision, images=calibration
            )
            seconds[precision] = time.perf_counter() - began
        sides = {"JAX": in_jax(options.run)}
        sides |= {f"onnxruntime, {precision}": in_onnxruntime(file) for precision, file in files.items()}
        speed = rates(sides, images, rounds=options.rounds, seconds=options.seconds)
        ours = predictions(sides["JAX"], images)
        print(f"{card.architecture}, {card.preprocessing.image_size} pixels, {len(images)} test images\n")
        print(
            "| | MB | seconds to export | images/s, 1 at a time | images/s, 32 | test accuracy | class as in JAX |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name, predict in sides.items():
            precision = name.partition(", ")[2]
            classes = predictions(predict, images)
            size = f"{files[precision].stat().st_size / 1e6:.2f}" if precision else "–"
            took = f"{seconds[precision]:.1f}" if precision else "–"
            print(
                f"| {name} | {size} | {took} | {speed[name][1]:.0f} | {speed[name][32]:.0f} | "
                f"{100 * (classes == test.labels).mean():.2f} % | {100 * (classes == ours).mean():.2f} % |"
            )


if __name__ == "__main__":
    main()
