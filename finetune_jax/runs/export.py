"""A run as one file that needs nothing of this package: an ONNX graph, a StableHLO program, or weights by timm's names.

Preprocessing from uint8 pixels and the softmax are inside the programs. What is written is read again and compared
with the run itself before it counts as done.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import data_config_of
from finetune_jax.files.weight_files import read_write
from finetune_jax.files.whole_file import write_whole
from finetune_jax.models import answers, onnx_graph
from finetune_jax.models.card import Card, read_best
from finetune_jax.models.compositions.routed import RoutedNetwork
from finetune_jax.models.layers.convolution import countable
from finetune_jax.models.network import Network, Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.models.weights import hugging_face
from finetune_jax.models.weights.torch_state import from_torch_state, to_torch_state
from finetune_jax.training import evaluation

FORMATS = ("onnx", "stablehlo", "safetensors")
PRECISIONS = ("float32", "float16", "int8")
NAMES = ("timm", "hugging_face")

INPUT, PROBABILITIES, LOGITS, VALUES = "images", "probabilities", "logits", "values"

_TOLERANCE = 1e-4  # of probabilities, float32
_COMPARED_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        bytes: its size.
        difference: largest difference of an output from the run's own, over ``images`` images.
        agreement: share of the images with the same likeliest class.
        images: how many were compared.
    """

    path: Path
    bytes: int
    difference: float
    agreement: float
    images: int


def export(
    run: Path,
    output: Path,
    *,
    format: str,
    softmax: bool = True,
    precision: str = "float32",
    names: str = "timm",
    images: np.ndarray | None = None,
) -> Exported:
    """Write the best checkpoint of a run as a file of another format, and compare what it computes.

    Args:
        run: its directory.
        output: the file to write.
        format: one of :data:`FORMATS`.
        softmax: whether the programs give probabilities, calibrated as those of prediction, or the numbers of a
            regression; else the outputs of the network.
        precision: of an ONNX file, one of :data:`PRECISIONS`; int8 is calibrated with ``images``.
        names: of the entries of a safetensors file, one of :data:`NAMES`.
        images: uint8 ``[N, H, W, 3]`` at the size that the network sees, to compare with and to calibrate with;
            None draws random ones.

    Returns:
        What was written, and how far it is from the run.

    Raises:
        UserError: the run has no checkpoint, a package is missing, the network has no such form, or what was
            written computes something else.
    """
    if format not in FORMATS:
        raise UserError(f"--format={format} is not known; choose {', '.join(FORMATS)}")
    if precision != "float32" and format != "onnx":
        raise UserError(f"--precision={precision} is for --format=onnx, not {format}")
    if names not in NAMES:
        raise UserError(f"--names={names} is not known; choose {', '.join(NAMES)}")
    if names != "timm" and format != "safetensors":
        raise UserError(f"--names={names} is for --format=safetensors, not {format}")
    card, variables = read_best(run)
    if card.head == "embedding":
        softmax = False
    size = card.preprocessing.image_size
    shape = (size, size, card.preprocessing.channels)
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (_COMPARED_IMAGES, *shape), np.uint8)
    if images.shape[1:] != shape or images.dtype != np.uint8:
        raise UserError(
            f"--run={run} takes uint8 images [N, {', '.join(map(str, shape))}], not {images.dtype} {images.shape}"
        )
    function = function_of(card, variables, softmax=softmax)
    form = names if format == "safetensors" else precision
    content, compute = _WRITERS[format](function, card, variables, images, softmax, form)
    write_whole(output, content)
    # After the file is made: what was traced here for as many images would not be traced anew for it.
    expected = np.asarray(jax.jit(function)(images))
    computed = compute(output)
    difference = float(np.abs(computed - expected).max())
    agreement = float(_same(card, computed, expected).mean())
    if precision == "float32" and not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        output.unlink()
        raise UserError(
            f"--format={format}: what was written differs from the run by {difference:.2g}, more than rounding does; "
            "the file was removed"
        )
    return Exported(output, len(content), difference, agreement, len(images))


def _same(card: Card, computed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """For which images both say the same, bool ``[N]``; numbers to a hundredth of their deviation."""
    if card.task == "regression":
        return (np.abs(computed - expected) <= 0.01 * np.asarray(card.target_deviation)).all(1)
    if card.task == "multilabel":
        thresholds = np.asarray(card.thresholds or (0.5,) * len(card.class_names))
        return ((computed >= thresholds) == (expected >= thresholds)).all(1)
    return computed.argmax(1) == expected.argmax(1)


def metadata(card: Card) -> dict[str, str]:
    """What a file says about its network: ``class_names`` and the whole ``card``, as JSON."""
    return {
        "class_names": json.dumps(list(card.class_names), ensure_ascii=False),
        "card": json.dumps(card.to_json(), ensure_ascii=False),
    }


def function_of(card: Card, variables: Variables, *, softmax: bool) -> Callable[[Any], jax.Array]:
    """uint8 images ``[N, H, W, 3]`` to probabilities or logits ``[N, C]``, in float32."""
    network = card.model(dtype=jnp.float32)
    if isinstance(network, RoutedNetwork) and network.policy is None and not network.all_tuned:
        raise UserError(
            "a run of --method=random_policy draws its decisions from the pixels and has no exported form"
        )
    logits = functools.partial(evaluation.classifier(network, normalizer(card.mean, card.std)), variables)
    answer = answers.of_outputs(card)
    return (lambda images: answer(logits(images))) if softmax else logits


Compute = Callable[[Path], np.ndarray]
"""From the file that was written to its outputs for the images to compare with."""


def _onnx(
    function: Callable[[Any], jax.Array],
    card: Card,
    variables: Variables,
    images: np.ndarray,
    softmax: bool,
    precision: str,
) -> tuple[bytes, Compute]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            '--format=onnx needs the package onnxruntime: pip install "finetune-jax[onnx]"'
        ) from error
    name = (VALUES if card.task == "regression" else PROBABILITIES) if softmax else LOGITS
    model = onnx_graph.to_onnx(
        function, images.shape[1:], input_name=INPUT, output_name=name, metadata=metadata(card)
    )
    if precision != "float32":
        from finetune_jax.models.onnx_graph import quantize

        model = quantize.float16(model) if precision == "float16" else quantize.int8(model, INPUT, images)

    def compute(path: Path) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return np.asarray(session.run([name], {INPUT: images})[0], np.float32)

    return model.SerializeToString(deterministic=True), compute


def _stablehlo(
    function: Callable[[Any], jax.Array],
    card: Card,
    variables: Variables,
    images: np.ndarray,
    softmax: bool,
    precision: str,
) -> tuple[bytes, Compute]:
    from jax import export as jax_export

    # A number of images that is a symbol has no length that the network may count, so each batch size has a program
    # of the same weights; most uses have one image, or batches that they fill up.
    with countable():
        (batch,) = jax_export.symbolic_shape("N")
        specification = jax.ShapeDtypeStruct((batch, *images.shape[1:]), jnp.uint8)
        exported = jax_export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(specification)
    content = exported.serialize()

    def compute(path: Path) -> np.ndarray:
        return np.asarray(jax_export.deserialize(bytearray(path.read_bytes())).call(images))

    return bytes(content), compute


def _safetensors(
    function: Callable[[Any], jax.Array],
    card: Card,
    variables: Variables,
    images: np.ndarray,
    softmax: bool,
    names: str,
) -> tuple[bytes, Compute]:
    from safetensors.numpy import save

    network = card.model(dtype=jnp.float32)
    if not isinstance(network, Network):
        raise UserError(
            f"--format=safetensors: a {card.composition['kind']} network has no names in PyTorch; use --format=onnx"
        )
    named = _of_transformers if names == "hugging_face" else to_torch_state
    state = {name: np.ascontiguousarray(value) for name, value in named(network, variables).items()}
    # Models that have no classifier in transformers are compared with the run's.
    headless = names == "hugging_face" and not any("classifier" in name for name in state)

    def compute(path: Path) -> np.ndarray:
        again = from_torch_state(network, read_write.read(path))
        if headless:
            again["params"]["head"]["classifier"] = variables["params"]["head"]["classifier"]
        return np.asarray(jax.jit(function_of(card, again, softmax=softmax))(images))

    return save(state, metadata(card)), compute


def _of_transformers(network: Network, variables: Variables) -> dict[str, np.ndarray]:
    """The state by the names of ``transformers``; models that have no classifier there go without."""
    models = ("vit.", "dinov2.", "convnext.", "convnextv2.")
    for names in network.other_torch_names:
        if any(place.startswith(models) for place in names.stem.values() if isinstance(place, str)):
            return to_torch_state(network, variables, names=names)
    try:
        return hugging_face.from_timm(to_torch_state(network, variables))
    except ValueError:
        raise UserError(
            f"--names=hugging_face: transformers has no {network.architecture} that is known here; use --names=timm"
        ) from None


_WRITERS: Mapping[str, Callable[..., tuple[bytes, Compute]]] = {
    "onnx": _onnx,
    "stablehlo": _stablehlo,
    "safetensors": _safetensors,
}


def images_of(run: Path, count: int, split: str) -> np.ndarray | None:
    """Images of a run's data as its network sees them, uint8 ``[N, H, W, 3]``; None where the data is gone.

    Args:
        run: its directory.
        count: at most so many, evenly spread over the split.
        split: ``train``, ``validation`` or ``test``.
    """
    card, _ = read_best(run)
    config = data_config_of(run)
    try:
        examples = datasets.load_source(config, silent=True).splits[split]
        arrays = datasets.materialise_split(config, examples, card.preprocessing, silent=True, title="")
    except UserError:
        return None
    chosen = np.unique(np.linspace(0, len(arrays.images) - 1, min(count, len(arrays.images))).astype(int))
    return np.asarray(arrays.images[chosen]) if len(chosen) else None
