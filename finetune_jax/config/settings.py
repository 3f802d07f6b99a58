"""The settings of a run: one frozen dataclass per kind of run.

A setting is declared once, see ``finetune_jax.config.declaration``; flags, help, checks and documentation read it
there. No JAX here: ``--help`` must not wait for it.
"""

from dataclasses import dataclass

from finetune_jax.config import ranges
from finetune_jax.config.choices import METHODS, RETRIEVAL_SCORES, SELECTION
from finetune_jax.config.data_settings import DataConfig
from finetune_jax.config.declaration import declared, setting, with_property
from finetune_jax.config.groups import DATA, MACHINE, METHOD, RETRIEVAL, RUN, SIMILARITY
from finetune_jax.config.machine_settings import MachineConfig
from finetune_jax.config.method_settings import RoutingConfig, SourceConfig, TuningConfig
from finetune_jax.config.methods import with_fact
from finetune_jax.config.mixing_settings import AveragingConfig, MixingConfig
from finetune_jax.config.network_settings import NetworkConfig
from finetune_jax.config.optimizer_settings import OptimizerConfig
from finetune_jax.config.spelling import data_set

__all__ = [
    "DEFAULTS",
    "LOCAL_SETTINGS",
    "READING_SETTINGS",
    "RUNTIME_SETTINGS",
    "AveragingConfig",
    "DataConfig",
    "FinetuneConfig",
    "MachineConfig",
    "MixingConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "RoutingConfig",
    "SimilarityConfig",
    "SourceConfig",
    "TuningConfig",
]

_WORKDIR_ALIASES = (
    "output",
    "output_dir",
    "out",
    "out_dir",
    "save_dir",
    "log_dir",
    "logdir",
    "project",
    "name",
    "run_dir",
)


@dataclass(frozen=True)
class SimilarityConfig(SourceConfig, DataConfig, NetworkConfig):
    """The command ``similarity``: how similar several data sets are to the source of the weights."""

    workdir: str = setting(
        "",
        "Directory of the results; empty is a new one below runs/.",
        group=RUN,
        important=2,
        local=True,
        aliases=_WORKDIR_ALIASES,
    )
    targets: tuple[str, ...] = setting(
        (),
        "Data sets to fine-tune on, each as in --dataset.",
        group=DATA,
        important=1,
        spelling=data_set,
    )
    save_source: str = setting(
        "", "Also write FILE.npz, which later stands for the data set as --source.", group=SIMILARITY
    )


@dataclass(frozen=True)
class FinetuneConfig(
    SourceConfig,
    DataConfig,
    NetworkConfig,
    OptimizerConfig,
    MixingConfig,
    AveragingConfig,
    TuningConfig,
    RoutingConfig,
):
    """The command ``finetune``: one run, kept in one directory."""

    workdir: str = setting(
        "",
        "Directory of the run; started again with the same flags it goes on there. Empty is a new one below runs/.",
        group=RUN,
        important=2,
        local=True,
        aliases=_WORKDIR_ALIASES,
    )
    method: str = setting(
        "standard",
        "Fine-tuning method: what is trained, and how.",
        METHODS,
        group=METHOD,
        important=4,
        aliases=("strategy", "mode"),
    )
    keep_head: bool = setting(
        False,
        "Go on with the head of --pretrained, a run directory of the same classes, instead of a fresh one.",
        group=METHOD,
    )
    k: int = setting(
        1,
        "Blocks that are fine-tuned with the head: the top ones (last_k), any (spottune_global).",
        group=METHOD,
        range=ranges.COUNT,
        only_with={"method": with_fact("counts_blocks")},
    )
    epochs: int = setting(
        20,
        "Passes over the training images.",
        group=RUN,
        important=6,
        range=ranges.COUNT,
        aliases=("num_epochs", "n_epochs", "num_train_epochs", "max_epochs", "ep"),
    )
    retrieval_score: str = setting(
        "recall_at_1",
        "Score by which --protocol=retrieval compares epochs and runs.",
        RETRIEVAL_SCORES,
        group=RETRIEVAL,
        only_with={"protocol": ("retrieval",)},
    )
    early_stopping: int = setting(
        0,
        "Stop after this many epochs without a better score; 0 never stops.",
        group=RUN,
        range=ranges.NOT_NEGATIVE,
        only_with={"select_on": tuple(split for split in SELECTION if split != "last")},
        why="which compares no scores",
        aliases=("patience", "early_stopping_patience"),
    )
    select_on: str = setting(
        "validation",
        "Split whose score chooses the best checkpoint, or last for that of the last epoch; the papers use test.",
        SELECTION,
        group=RUN,
        aliases=("eval_metric", "monitor"),
    )
    predict_unlabelled: bool = setting(
        False,
        "Also label the images of splits that come without labels, in predictions-SPLIT.csv.",
        group=RUN,
        only_with={"protocol": ("classification",)},
    )
    loggers: tuple[str, ...] = setting(
        (),
        "Experiment trackers that are told of the run beside metrics.csv and TensorBoard: wandb, mlflow, trackio, aim. "
        "A run that is started again goes on in those it began with, under the same id.",
        group=RUN,
        local=True,
        aliases=("report_to", "log_with", "logger", "tracker"),
    )
    log_project: str = setting(
        "finetune_jax",
        "Project of --loggers that the run belongs to.",
        group=RUN,
        local=True,
        aliases=("wandb_project", "project_name", "experiment_name"),
    )
    seed: int = setting(
        0,
        "Seed of everything random in the run.",
        group=RUN,
        important=10,
        range=ranges.NOT_NEGATIVE,
        aliases=("random_seed", "manual_seed", "random_state"),
    )
    probe: bool = setting(
        True,
        "Measure beside the run how far the frozen features go by a linear probe, which fine-tuning must beat.",
        group=RUN,
        before=False,
    )
    report: bool = setting(
        True,
        "Write report.html and its figures; tables, metrics and the summary are written in any case.",
        group=RUN,
        local=True,
        aliases=("write_report",),
    )
    figures: tuple[str, ...] = setting(
        ("png",),
        "Formats in which figures are written beside the page: png, svg, pdf.",
        group=RUN,
        local=True,
        only_with={"report": (True,)},
        aliases=("figure_format", "figure_formats"),
    )
    checkpoint_steps: int = setting(
        0,
        "Also save every this many steps; 0 saves at the end of epochs only.",
        group=RUN,
        range=ranges.NOT_NEGATIVE,
        aliases=("save_steps", "save_every"),
    )
    keep_epochs: int = setting(
        1,
        "Keep the checkpoints of so many of the best epochs, for a soup of them by interpolate.",
        group=RUN,
        range=ranges.COUNT,
        local=True,
        aliases=("save_total_limit", "checkpoint_hist", "save_top_k"),
    )
    shard_parameters: bool = setting(
        False,
        "Train larger networks: every device keeps its share of parameters, gradients and optimiser state alone, and "
        "the parameters of a block come together just before it runs (ZeRO-3, FSDP); computes as --rematerialise does.",
        group=MACHINE,
        aliases=("fsdp", "zero", "zero3"),
    )
    steps_per_dispatch: int = setting(
        0,
        "Steps that the device runs per call; 0 is 1 on CPU and 64 on accelerators.",
        group=MACHINE,
        range=ranges.NOT_NEGATIVE,
    )

    @property
    def images_per_step(self) -> int:
        """Images over which the gradients of one step are averaged."""
        return self.batch_size * self.accumulate_steps


DEFAULTS = {name: setting.default for name, setting in declared(FinetuneConfig).items()}
RUNTIME_SETTINGS = with_property(FinetuneConfig, "runtime")
"""Settings that no compiled program knows: runs that differ in nothing else can be trained in lockstep."""
LOCAL_SETTINGS = frozenset(with_property(FinetuneConfig, "local"))
"""Where a run keeps its files and how it uses the machine; they may change when it is started again."""
READING_SETTINGS = with_property(DataConfig, "reading")
"""Settings that decide which images are read and how; all data sets that are compared share them."""
