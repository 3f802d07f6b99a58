r"""Write a run as one file that needs nothing of this package.

    ./launch.sh export --run=runs/photos --format=onnx --output=photos.onnx
    ./launch.sh export --run=runs/photos --format=safetensors --output=photos.safetensors
    ./launch.sh export --run=runs/photos --format=onnx --precision=int8 --output=small.onnx
    ./launch.sh export --run=runs/photos --output=photos.onnx --model_card --push=hf:USER/photos

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
flags.DEFINE_enum(
    "names",
    "timm",
    ["timm", "hugging_face"],
    "Names of the weights in a safetensors file: timm's and torchvision's, or those of transformers, whose DINOv2 with "
    "registers, DINOv3 and SigLIP have no classifier.",
)
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
flags.DEFINE_bool(
    "model_card", False, "Also write model_card.md beside the file: what the network is and how good."
)
flags.DEFINE_string(
    "push",
    "",
    "Put file and model card into hf:USER/NAME on the Hugging Face hub; a repository that is made there is private.",
)
flags.DEFINE_bool("public", False, "A repository that --push makes can be read by all.")


def main() -> int:
    """Write the file, and print how far it is from the run."""
    values = flags.FLAGS
    command_line.start_jax()
    from finetune_jax.files.whole_file import write_whole
    from finetune_jax.runs import export, model_card

    if values.push:
        model_card.repository(values.push)
    run, output = Path(values.run).expanduser(), Path(values.output).expanduser()
    images = export.images_of(run, values.compare, "train" if values.precision == "int8" else "test")
    written = export.export(
        run,
        output,
        format=values.format,
        softmax=values.softmax,
        precision=values.precision,
        names=values.names,
        images=images,
    )
    print(
        f"{written.path}: {written.bytes / 1e6:.1f} MB, outputs differ from the run's by at most "
        f"{written.difference:.1g}; the same likeliest class for {100 * written.agreement:.2f} % of "
        f"{written.images} images"
    )
    if values.model_card or values.push:
        what = (
            f"{values.format}, {values.precision}; {100 * written.agreement:.2f} % of classes as the run says"
        )
        name = values.push.rpartition("/")[2] or run.absolute().name
        text = model_card.of_run(run, {output.name: what}, name=name)
        if values.model_card:
            file = output.absolute().parent / model_card.FILE
            write_whole(file, text.encode())
            print(f"model card: {file}")
        if values.push:
            contents = {output.name: output.read_bytes(), model_card.ON_THE_HUB: text.encode()}
            print(f"pushed: {model_card.push(values.push, contents, public=values.public)}")
    return 0
