"""Settings of the optimiser: rates, schedule and loss."""

from dataclasses import dataclass

from finetune_jax.config import ranges
from finetune_jax.config.choices import (
    AUTO,
    CLIPS,
    DECAYS_EVERYTHING,
    LABEL_LOSSES,
    LOSSES,
    OPTIMIZERS,
    RANGE_TESTS,
    SCHEDULE_UNITS,
    SCHEDULES,
    WITHOUT_RATE,
)
from finetune_jax.config.declaration import setting
from finetune_jax.config.groups import LOSS, OPTIMIZER, SCHEDULE

_SGD = {"optimizer": ("sgd",)}
_RISING = {"schedule": ("cyclic", "sgdr")}
_LABELS = {"loss": LABEL_LOSSES}
_DECAYS_BY_MASK = tuple(name for name in OPTIMIZERS if name not in DECAYS_EVERYTHING)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its rates."""

    optimizer: str = setting(
        "sgd",
        "Optimiser: SGD with Nesterov momentum, AdamW, which wants a smaller --learning_rate, 0.001 or less, or "
        "another one of optax; prodigy, dadapt_adamw, dog, dowg, mechanize and momo estimate their own step size. "
        "finetune without this flag, a rate, a momentum or another method takes AdamW at 0.001 (--recipe=default).",
        OPTIMIZERS,
        group=OPTIMIZER,
        aliases=("opt", "optim", "optimiser"),
    )
    learning_rate: float | str = setting(
        0.01,
        "Learning rate of the pretrained parts; auto takes the one that the similarity of the data to --source "
        "recommends, find the one that a range test of 100 steps suggests, find_blocks that and one for each part.",
        group=OPTIMIZER,
        important=7,
        words=(AUTO, *RANGE_TESTS),
        range=ranges.POSITIVE,
        runtime=True,
        aliases=("lr", "lr0", "base_lr", "blr", "eta"),
    )
    effective_learning_rate: float | None = setting(
        None,
        "Learning rate in a unit that keeps its meaning when the momentum changes: --learning_rate is then this "
        "times (1 - --momentum).",
        group=OPTIMIZER,
        range=ranges.POSITIVE,
        only_with=_SGD,
        runtime=True,
    )
    head_learning_rate: float = setting(
        0.0,
        "Learning rate of the head; 0 takes --learning_rate. A fresh head often wants ten times that.",
        group=OPTIMIZER,
        range=ranges.NOT_NEGATIVE,
        runtime=True,
        aliases=("head_lr", "lr_head"),
    )
    layer_decay: float = setting(
        1.0,
        "Factor of the learning rate of every part on that of the part above it (timm's --layer-decay).",
        group=OPTIMIZER,
        range=ranges.FACTOR,
        runtime=True,
        aliases=("llrd", "layer_lr_decay"),
    )
    discriminative_ratio: float = setting(
        1.0,
        "Ratio of the learning rate in the head to that in the stem, between which rates fall geometrically "
        "(fastai's slice).",
        group=OPTIMIZER,
        range=ranges.AT_LEAST_ONE,
        runtime=True,
    )
    rate_factors: tuple[str, ...] = setting(
        (),
        "Factors of the learning rates of single parts, e.g. block_01=0.1,head=10; 0 keeps a part as it is.",
        group=OPTIMIZER,
        runtime=True,
    )
    momentum: float = setting(
        0.9, "Momentum of SGD.", group=OPTIMIZER, range=ranges.BELOW_ONE, only_with=_SGD, runtime=True
    )
    nesterov: bool = setting(
        True, "Use Nesterov's look ahead in the momentum of SGD.", group=OPTIMIZER, only_with=_SGD
    )
    weight_decay: float = setting(
        5e-4,
        "Weight decay: SGD adds weight_decay · w to the gradient; AdamW shrinks w by learning_rate · weight_decay, and "
        "so do the others but adam, dog and dowg.",
        group=OPTIMIZER,
        range=ranges.NOT_NEGATIVE,
        runtime=True,
        aliases=("wd", "l2"),
    )
    effective_weight_decay: float | None = setting(
        None,
        "Weight decay relative to the learning rate: --weight_decay is then this times the learning rate.",
        group=OPTIMIZER,
        range=ranges.NOT_NEGATIVE,
        only_with=_SGD,
        runtime=True,
    )
    decay_norms: bool = setting(
        True,
        "Weight decay also shrinks norms and biases; --nodecay_norms leaves it to the kernels, as timm does.",
        group=OPTIMIZER,
        only_with={"optimizer": _DECAYS_BY_MASK},
        why="whose decay leaves nothing out",
        aliases=("no_bias_decay", "weight_decay_norms"),
    )
    block_estimates: bool = setting(
        False,
        "Every part of the network estimates a step size of its own, instead of one for all.",
        group=OPTIMIZER,
        only_with={"optimizer": WITHOUT_RATE},
    )
    clip_norm: float | None = setting(
        None,
        "Largest norm of the gradient of all trained parts over the whole batch; a longer one is shortened to it.",
        group=OPTIMIZER,
        range=ranges.POSITIVE,
        aliases=("clip_grad", "max_grad_norm", "gradient_clip_val", "grad_clip", "clip_grad_norm"),
    )
    clip: str = setting(
        "none",
        "Clipping beside --clip_norm: agc keeps the gradient of each output of a layer shorter than --clip_ratio times "
        "its weights (adaptive gradient clipping), the classifier left out.",
        CLIPS,
        group=OPTIMIZER,
        aliases=("clip_mode",),
    )
    clip_ratio: float = setting(
        0.01,
        "Largest ratio of the norms of gradient and weights that --clip=agc leaves.",
        group=OPTIMIZER,
        range=ranges.POSITIVE,
        only_with={"clip": ("agc",)},
    )
    gradient_norms: bool = setting(
        False,
        "Write the mean norm of the gradient of every trained part to metrics.csv and TensorBoard, before clipping.",
        group=OPTIMIZER,
    )
    accumulate_steps: int = setting(
        1,
        "Batches of --batch_size whose gradients are averaged for one step of the optimiser.",
        group=OPTIMIZER,
        range=ranges.COUNT,
        aliases=("gradient_accumulation_steps", "grad_accum_steps", "accumulate_grad_batches", "accum_iter"),
    )
    batch_size: int = setting(
        32,
        "Images per step, over all devices.",
        group=OPTIMIZER,
        important=8,
        range=ranges.COUNT,
        aliases=("bs", "batch", "b", "train_batch_size", "per_device_train_batch_size"),
    )
    schedule: str = setting(
        "cosine",
        "How the learning rates change during training.",
        SCHEDULES,
        group=SCHEDULE,
        runtime=True,
        aliases=("sched", "scheduler", "lr_schedule", "lr_scheduler", "lr_scheduler_type", "lrf"),
    )
    drop_epochs: tuple[int, ...] = setting(
        (),
        "Epochs at which the step schedule multiplies the learning rates by --drop_factor; empty is at 4/5 of "
        "--epochs.",
        group=SCHEDULE,
        range=ranges.RISING_EPOCHS,
        only_with={"schedule": ("step",)},
        runtime=True,
        aliases=("decay_epochs", "decay_milestones", "milestones", "step_size"),
    )
    drop_factor: float = setting(
        0.1,
        "Factor of the learning rates at each of --drop_epochs of the step schedule.",
        group=SCHEDULE,
        range=ranges.POSITIVE,
        runtime=True,
        aliases=("decay_rate", "gamma", "lr_gamma"),
    )
    cycles: int = setting(
        1,
        "Triangles of the cyclic schedule; periods of the sgdr schedule (its warm restarts plus 1).",
        group=SCHEDULE,
        range=ranges.COUNT,
        only_with=_RISING,
        runtime=True,
    )
    lowest_factor: float = setting(
        0.1,
        "Share of the learning rates that the cyclic and sgdr schedules go down to.",
        group=SCHEDULE,
        range=ranges.FACTOR,
        only_with=_RISING,
        runtime=True,
    )
    schedule_by: str = setting(
        "epoch",
        "Whether the schedule changes the learning rates at every epoch or at every step.",
        SCHEDULE_UNITS,
        group=SCHEDULE,
        runtime=True,
    )
    min_rate_factor: float = setting(
        0.0,
        "Share of the learning rates that the cosine schedule goes down to.",
        group=SCHEDULE,
        range=ranges.UP_TO_ONE,
        only_with={"schedule": ("cosine",)},
        runtime=True,
        aliases=("min_lr_ratio", "lr_min_factor"),
    )
    warmup_epochs: float = setting(
        0.0,
        "Epochs, fractions allowed, over which the learning rates rise step by step to those of the schedule.",
        group=SCHEDULE,
        range=ranges.NOT_NEGATIVE,
        runtime=True,
        aliases=("warmup", "lr_warmup_epochs", "warmup_ratio", "warmup_steps"),
    )
    restart_epochs: tuple[int, ...] = setting(
        (),
        "Epochs after which the schedule begins again, warm-up included, over those up to the next of them or to the "
        "end, as resume DIR --epochs=N prolongs a run; weights and momentum stay.",
        group=SCHEDULE,
        range=ranges.RISING_EPOCHS,
        runtime=True,
        aliases=("warm_restarts",),
    )
    head_epochs: int = setting(
        0,
        "First epochs in which the head alone learns; then all parts do, after a warm-up of their own "
        "(linear probing, then fine-tuning).",
        group=SCHEDULE,
        range=ranges.NOT_NEGATIVE,
        runtime=True,
        aliases=("freeze_epochs", "linear_probe_epochs"),
    )
    unfreeze_epochs: int = setting(
        0,
        "Gradual unfreezing from the top: after --head_epochs one part more learns with every so many epochs.",
        group=SCHEDULE,
        range=ranges.NOT_NEGATIVE,
        runtime=True,
    )
    loss: str = setting(
        "cross_entropy",
        "Loss that is minimised: cross_entropy, bce (every class a question of its own), focal (well classified "
        "images count little); proxy_anchor learns embeddings and is for --protocol=retrieval; mse, l1 and huber are "
        "for --task=regression. The default stands for bce with --task=multilabel, for the likelihood of the grades "
        "with ordinal, and for mse with regression.",
        LOSSES,
        group=LOSS,
        value_only_with={"proxy_anchor": {"protocol": ("retrieval",)}},
    )
    focal_gamma: float = setting(
        2.0,
        "Exponent γ of the focal loss; 0 is cross_entropy.",
        group=LOSS,
        range=ranges.NOT_NEGATIVE,
        only_with={"loss": ("focal",)},
    )
    proxy_learning_rate: float = setting(
        0.0,
        "Learning rate of the proxies of --loss=proxy_anchor; 0 is 100 times --learning_rate.",
        group=LOSS,
        range=ranges.NOT_NEGATIVE,
        only_with={"loss": ("proxy_anchor",)},
        runtime=True,
    )
    label_smoothing: float = setting(
        0.0,
        "Share of the target that is spread evenly over all classes.",
        group=LOSS,
        range=ranges.BELOW_ONE,
        only_with=_LABELS,
        aliases=("smoothing", "label_smoothing_factor"),
    )
    class_weights: str = setting(
        "none",
        "Weights of the classes in the loss: none; balanced, inverse to the class frequencies; balanced:POWER, to that "
        "power of the inverse, e.g. balanced:0.5; or FILE.csv with the columns class and weight.",
        group=LOSS,
        only_with=_LABELS,
    )
    balanced_sampling: bool = setting(
        False,
        "Draw every class equally often.",
        group=LOSS,
        aliases=("weighted_sampler",),
    )
