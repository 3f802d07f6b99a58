"""Groups of settings, in which ``--help`` and the tables of the documentation show them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Settings that a reader looks for together.

    Attributes:
        name: what ``--help=NAME`` takes.
        title: the heading.
    """

    name: str
    title: str


DATA = Group("data", "Data set and splits")
IMAGES = Group("images", "Image size and augmentation")
RETRIEVAL = Group("retrieval", "Retrieval")
NETWORK = Group("network", "Network and pretrained weights")
OPTIMIZER = Group("optimizer", "Optimiser and learning rates")
SCHEDULE = Group("schedule", "Learning-rate schedule")
LOSS = Group("loss", "Loss and class balance")
METHOD = Group("method", "Fine-tuning method")
AUTOLR = Group("autolr", "AutoLR and pruning")
SPOTTUNE = Group("spottune", "SpotTune and its policy network")
L2_SP = Group("l2_sp", "L2-SP")
PROJECTION = Group("projection", "Fast Trainable Projection")
LORA = Group("lora", "LoRA")
SIMILARITY = Group("similarity", "Similarity of data sets, --learning_rate=auto")
RUN = Group("run", "Run, checkpoints and what is measured")
MACHINE = Group("machine", "Memory, caches and cluster")

ALL = (
    DATA,
    IMAGES,
    NETWORK,
    METHOD,
    OPTIMIZER,
    SCHEDULE,
    LOSS,
    AUTOLR,
    SPOTTUNE,
    L2_SP,
    PROJECTION,
    LORA,
    RETRIEVAL,
    SIMILARITY,
    RUN,
    MACHINE,
)
"""In the order in which they are shown."""
