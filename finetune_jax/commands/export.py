r"""Write a run as one file that needs nothing of this package.

    ./launch.sh export --run=runs/photos --format=onnx --output=photos.onnx
    ./launch.sh export --run=runs/photos --format=safetensors --output=photos.safetensors
    ./launch.sh export --run=runs/photos --format=onnx --precision=int8 --output=small.onnx

ONNX and StableHLO programs take uint8 pixels at the run's input size, any number of images, and give probabilities.
safetensors holds the weights by the names of torchvision, timm or Hugging Face. What is written is read again and
compared with the run.
"""

from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line

flags.DEFINE_string("run", None, "Run directory whose best checkpoint is written.", required=True)
flags.DEFINE_enum("format", "onnx", ["onnx", "stablehlo", "safetensors"], "Format of the file.")
flags.DEFINE_string("output", None, "File to write.", required=True)
flags.DEFINE_bool("softmax", True, "Programs give probabilities; --nosoftmax gives logits.")
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "float16", "int8"],
    "Precision of an ONNX file; int8 is calibrated with training images of the run.",
)
flags.DEFINE_integer(
    "compare", 64, "At most this many test images are compared with the run's own prediction.", lower_bound=1
)


def main() -> int:
    """Write the file, and print how far it is from the run."""
    values = flags.FLAGS
    command_line.start_jax()
    from finetune_jax.runs import export

    run, output = Path(values.run).expanduser(), Path(values.output).expanduser()
    images = export.images_of(run, values.compare, "train" if values.precision == "int8" else "test")
    written = export.export(
        run, output, format=values.format, softmax=values.softmax, precision=values.precision, images=images
    )
    print(
        f"{written.path}: {written.bytes / 1e6:.1f} MB, outputs differ from the run's by at most "
        f"{written.difference:.1g}; the same likeliest class for {100 * written.agreement:.2f} % of "
        f"{written.images} images"
    )
    return 0
