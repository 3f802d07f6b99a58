"""Reproducible network weights, images and gradient directions, from nothing but a name and a seed.

The golden numbers of this folder are computed elsewhere with PyTorch; both sides build their inputs here,
so no weights have to be stored. NumPy only. The bits are the same on every platform and NumPy version: only
the raw output of the Philox generator is used (whose stream NumPy guarantees) and exact integer arithmetic
on it.
"""

import math
import re
import zlib
from collections.abc import Container, Mapping

import numpy as np

_AT_ONCE = 2**15
"""Values that are made at once: few enough for the processor's cache."""
_LOW_HALVES = np.uint64(0x0000FFFF0000FFFF)
_LAST_NORM_GAIN = 0.1
_TOKENS = {"pos_embed", "cls_token", "reg_token", "latent", "position_embeddings"}
_CHANNEL_FACTORS = {"gamma", "gamma_1", "gamma_2", "lambda1", "layer_scale_parameter"}
_BRANCH_NORM = re.compile(r"(.+\.bn|stages\..+\.norm)(\d)\.weight")


def seeded_normal(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Nearly normal float32 values of mean 0 and variance 1, within ±3.5, fixed by ``name`` and ``seed``.

    Each value is the standardised sum of four uniform 16-bit integers.

    Args:
      name: any string; different names give independent values.
      shape: shape of the result.
      seed: in ``[0, 2**32)``.
    """
    generator = np.random.Philox(key=(seed << 32) | zlib.crc32(name.encode()))
    standard_deviation = math.sqrt(4 * (2.0**32 - 1) / 12)
    values = np.empty(math.prod(shape), np.float32)
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        raw = generator.random_raw(len(part))
        pairs = (raw & _LOW_HALVES) + ((raw >> np.uint64(16)) & _LOW_HALVES)
        sums = ((pairs & np.uint64(2**32 - 1)) + (pairs >> np.uint64(32))).astype(np.int32)
        part[:] = (sums - 2 * 65535) / standard_deviation
    return values.reshape(shape)


def seeded_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Values for every entry of a PyTorch state dict that keep activations of order one in deep networks.

    Kernels (two or more axes, output axis first) get standard deviation ``sqrt(2 / fan_in)`` (He et al.
    2015). Norm weights lie around 1, or around 0.1 for the last norm of a ResNet's residual branch, because the
    activations would otherwise grow exponentially over fifty blocks. Biases and running means lie around 0,
    running variances in [0.5, 1.5]. ``num_batches_tracked`` is zero. Of transformers, tokens and positions have
    standard deviation 0.5, and the factors of channels lie around 0.5.

    Args:
      shapes: shape of every entry. An entry depends on the others only in whether its norm is a branch's
        last.
      seed: in ``[0, 2**32)``.

    Returns:
      ``{name: float32 array}`` in the order of ``shapes``.

    Raises:
      ValueError: an entry is of no known kind.
    """
    return {name: _seeded_entry(name, tuple(shape), seed, shapes) for name, shape in shapes.items()}


def _seeded_entry(name: str, shape: tuple[int, ...], seed: int, names: Container[str]) -> np.ndarray:
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.float32)
    values = seeded_normal(name, shape, seed)
    if kind in _TOKENS:
        return np.float32(0.5) * values
    if len(shape) >= 2:
        return values * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    match kind:
        case "weight":
            gain = _LAST_NORM_GAIN if _is_last_norm_of_branch(name, names) else 1.0
            return np.float32(gain) * (1 + np.float32(0.1) * values)
        case _ if kind in _CHANNEL_FACTORS:
            return np.float32(0.5) * (1 + np.float32(0.1) * values)
        case "bias" | "running_mean" | "q_bias" | "v_bias":
            return np.float32(0.1) * values
        case "running_var":
            return 1 + np.float32(0.14) * values  # values stay within ±3.5, hence [0.51, 1.49]
        case _:
            raise ValueError(f"no rule for {name!r} of shape {shape}")


def _is_last_norm_of_branch(name: str, names: Container[str]) -> bool:
    match = _BRANCH_NORM.fullmatch(name)
    if match is None or f"{name.rpartition('.')[0].rpartition('.')[0]}.conv1.weight" not in names:
        return False
    return f"{match[1]}{int(match[2]) + 1}.weight" not in names


def seeded_images(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Images ``[n, size, size, 3]`` float32 with standardised pixels."""
    return seeded_normal("images", (n, size, size, 3), seed)


def fingerprint(name: str, array: np.ndarray, seed: int) -> np.ndarray:
    """``[L2 norm, dot product with seeded_normal(name, array.shape, seed)]``, float64.

    An error ``e`` anywhere in the array changes the second number by about ``‖e‖``, so compare both with a
    tolerance relative to the *first*: ``|difference| ≤ tolerance · norm``.

    Args:
      name: state name; it chooses the direction.
      array: in PyTorch's layout (kernels are output, input, height, width).
      seed: of the direction; unlike that of the state, or a weight would be compared with itself.
    """
    flat = np.asarray(array, np.float64).ravel()
    direction = seeded_normal(name, flat.shape, seed).astype(np.float64)
    return np.array([np.sqrt(flat @ flat), flat @ direction])


def fingerprint_scale(fingerprints: np.ndarray) -> np.ndarray:
    """What errors of fingerprints ``[P, 2]`` are relative to, ``[P, 1]``: the array's norm.

    Of an array that is zero but for rounding, the largest norm of all: the bias of a norm without ReLU has no
    gradient where the next norm takes the mean away.
    """
    norms = fingerprints[:, :1]
    return np.where(norms > 1e-9 * norms.max(), norms, norms.max())
