"""Networks of timm and transformers against the same networks here, with the same seeded weights and images.

    PYTHONPATH=.:tests/golden python -m benchmarks.parity --torch=PYTHON [NAME[@PIXELS] ...]

``PYTHON`` is a Python with torch, timm and transformers, which need not have anything of this package. For each network
(all that timm has too, without names) it computes logits, the embedding and the gradient of the loss by every
parameter in float32, of two images; a row of errors follows, as in docs/networks.md: of logits and embeddings the
largest difference over the largest value, of gradients the worst parameter's, relative to its norm. ``NAME@PIXELS`` is
the network at another size; its state is of the published size, so that positions are resampled. With ``--float64``
both sides are computed in float64 as well: further columns are the same errors there, and how far the float32 of the
reference itself is from its float64, in logits and in its worst gradient.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LABELS = (3, 7)
NUM_CLASSES = 10
DIRECTION_SEED = 1


def reference(name: str, pixels: int, output: Path, float64: bool, gradients: bool) -> None:
    """Runs in PyTorch's Python: writes the reference numbers of one network."""
    import timm
    import torch
    from seeded_state import fingerprint, seeded_images, seeded_state
    from torch.nn import functional

    torch.set_num_threads(2)
    published = timm.create_model(name, num_classes=NUM_CLASSES)
    shapes = {key: tuple(value.shape) for key, value in published.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in seeded_state(shapes).items()}
    published.load_state_dict(state)
    module = published
    if pixels and hasattr(module, "set_input_size"):
        module.set_input_size(img_size=(pixels, pixels))
    side = pixels or published.default_cfg["input_size"][-1]
    images = torch.from_numpy(seeded_images(len(LABELS), side)).permute(0, 3, 1, 2)
    numbers: dict[str, Any] = {"names": np.array(list(shapes)), "side": np.array(side)}
    numbers |= {f"shape/{key}": np.array(shape) for key, shape in shapes.items()}
    for dtype in (torch.float32, torch.float64) if float64 else (torch.float32,):
        module = module.to(dtype).eval()
        features = module.forward_features(images.to(dtype))
        embedding = module.forward_head(features, pre_logits=True)
        logits = module(images.to(dtype))
        kind = "double/" if dtype == torch.float64 else ""
        numbers |= {f"{kind}logits": logits.detach().numpy(), f"{kind}embedding": embedding.detach().numpy()}
        if not gradients:
            continue
        loss = functional.cross_entropy(logits, torch.tensor(LABELS))
        loss.backward()
        for key, parameter in module.named_parameters():
            print_ = fingerprint(key, parameter.grad.numpy(), DIRECTION_SEED)
            numbers[f"{kind}grad/{key}"] = print_
            parameter.grad = None
    np.savez(output, **numbers)


def compare(
    name: str, pixels: int, numbers: dict[str, np.ndarray], gradients: bool, kind: str = ""
) -> dict[str, float]:
    """Errors here, relative to the reference; of float64 for the ``kind`` ``double/``."""
    import jax
    import jax.numpy as jnp
    from seeded_state import fingerprint, seeded_images, seeded_state

    from finetune_jax import models
    from finetune_jax.algorithms.losses import cross_entropy

    dtype = jnp.float64 if kind else jnp.float32
    state = seeded_state({str(key): tuple(numbers[f"shape/{key}"]) for key in numbers["names"]})
    network = models.create(name, num_classes=NUM_CLASSES, image_size=pixels or None, dtype=dtype)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), models.from_torch_state(network, state))
    images = jnp.asarray(seeded_images(len(LABELS), int(numbers["side"])), dtype)

    def loss(params: dict) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        weights = {**variables, "params": params}
        logits = network.apply(weights, images)
        return cross_entropy(logits, jnp.asarray(LABELS)).mean(), (logits, network.embed(weights, images))

    if gradients:
        by_params, (logits, embedding) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    else:
        logits, embedding = jax.jit(lambda params: loss(params)[1])(variables["params"])
    errors = {
        "logits": _error(logits, numbers[f"{kind}logits"]),
        "embedding": _error(embedding, numbers[f"{kind}embedding"]),
    }
    if not gradients:
        return errors
    by_state = models.to_torch_state(network, {**variables, "params": by_params})
    expected = _gradients(numbers, kind)
    fingerprints = {key: fingerprint(key, by_state[key], DIRECTION_SEED) for key in expected}
    return {**errors, "gradients": _worst(fingerprints, expected)}


def _gradients(numbers: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    prefix = f"{kind}grad/"
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}


def _worst(fingerprints: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    largest = max(norm for norm, _ in expected.values())
    # The bias of keys moves all scores of a query alike: its gradient is zero but for rounding.
    relative = {
        key: np.abs(fingerprints[key] - value).max() / max(value[0], 1e-5 * largest)
        for key, value in expected.items()
    }
    key = max(relative, key=relative.__getitem__)
    print(f"   worst gradient: {key} {relative[key]:.1e}", file=sys.stderr)
    return float(relative[key])


def _error(value: object, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(value, np.float64) - expected).max() / np.abs(expected).max())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NAME[@PIXELS]")
    parser.add_argument("--torch", help="Python with torch and timm")
    parser.add_argument("--float64", action="store_true", help="also how far the reference is from float64")
    parser.add_argument(
        "--no-gradients", action="store_true", help="leave the gradients out, for large networks"
    )
    parser.add_argument("--reference", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    gradients = not arguments.no_gradients
    if arguments.reference:
        name, _, pixels = arguments.networks[0].partition("@")
        reference(name, int(pixels or 0), Path(arguments.reference), arguments.float64, gradients)
        return
    for text in arguments.networks:
        name, _, pixels = text.partition("@")
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "numbers.npz"
            flags = [*(["--float64"] * arguments.float64), *(["--no-gradients"] * arguments.no_gradients)]
            command = [arguments.torch, __file__, text, f"--reference={file}", *flags]
            subprocess.run(command, check=True)
            numbers = dict(np.load(file))
        errors = compare(name, int(pixels or 0), numbers, gradients)
        if arguments.float64:
            import jax

            with jax.enable_x64(True):
                double = compare(name, int(pixels or 0), numbers, gradients, "double/")
            errors |= {f"{what} in float64": error for what, error in double.items()}
            errors["logits of PyTorch"] = _error(numbers["logits"], numbers["double/logits"])
            if gradients:
                errors["gradients of PyTorch"] = _worst(
                    _gradients(numbers, ""), _gradients(numbers, "double/")
                )
        cells = " | ".join(f"{error:.1e}" for error in errors.values())
        print(f"| `{text}` | {cells} | {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
