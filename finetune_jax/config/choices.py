"""The names that settings choose among."""

from finetune_jax.config import methods

METHODS = tuple(methods.BY_NAME)
WITH_POLICY = methods.with_fact("has_policy")
"""Methods that train a policy network."""
ROUTED = methods.with_fact("routed")
"""Methods with two copies of each block."""
TUNES_EVERYTHING = methods.with_fact("freezes", False)
"""Methods that freeze nothing."""
PROTOCOLS = ("classification", "retrieval")
TASKS = ("auto", "classification", "retrieval", "multilabel", "regression", "ordinal")
POLICIES = ("trivial_augment", "rand_augment", "augmix")
"""Augmentations that take a random resized crop and then operations of a published list."""
IN_PROPORTION = ("random_crop", "random_resized_crop", *POLICIES)
"""Augmentations that are defined on images in their own proportions."""
CROPPING = ("crop", *IN_PROPORTION)
"""Augmentations that cut --image_size pixels out of larger stored images."""
AUGMENTATIONS = ("auto", "none", "flip", "pad_crop", "pad_crop_flip", *CROPPING)
RESIZE_MODES = ("auto", "stretch", "shorter_side")
NORMALIZATIONS = ("pretrained", "dataset")
FROZEN_NORMS = ("eval", "train", "learn")
SCHEDULE_UNITS = ("epoch", "step")
SCHEDULES = ("constant", "step", "cosine", "cyclic", "sgdr")
WITHOUT_RATE = ("prodigy", "dadapt_adamw", "dog", "dowg", "mechanize", "momo")
"""Optimisers that estimate their own step size."""
OPTIMIZERS = (
    "sgd",
    "adamw",
    "adam",
    "lamb",
    "lion",
    "adafactor",
    "muon",
    "schedule_free_adamw",
    *WITHOUT_RATE,
)
DECAYS_EVERYTHING = ("prodigy", "dadapt_adamw", "momo")
"""Optimisers whose weight decay leaves nothing out."""
ELEMENTWISE = ("sgd", "adamw", "adam", "lion", "schedule_free_adamw")
"""Optimisers that treat every number by itself, so that shares of arrays are enough for them."""
LABEL_LOSSES = ("cross_entropy", "bce", "focal")
"""Losses of classifiers."""
VALUE_LOSSES = ("mse", "l1", "huber")
"""Losses of numbers."""
LOSSES = (*LABEL_LOSSES, "proxy_anchor", *VALUE_LOSSES)
LOGGERS = ("wandb", "mlflow", "trackio", "aim")
"""Experiment trackers."""
CLIPS = ("none", "agc")
AVERAGE_STATISTICS = ("estimated", "kept")
RADII = ("layer", "block")
RETRIEVAL_SCORES = ("recall_at_1", "map_at_r")
VIEWS = ("one", "mirror", "five_crops", "ten_crops")
"""Views of an image whose outputs are averaged: itself, with its mirror image, corners and centre, both of all five."""
VARIATIONS = ("mean", "rms", "relative")
"""Measures of how far a block moved."""
RGN_OVER = ("blocks", "tensors")
"""What has a rate of its own with Auto-RGN."""
TUNED_OVER = ("blocks", "stages")
"""What has a rate of its own with AutoLR."""
SPACINGS = ("linear", "geometric")
"""Spacings of AutoLR's first targets."""
SELECTION = ("validation", "test", "last")
FIGURES = ("png", "svg", "pdf")
"""Formats of figures."""

AUTO = "auto"
"""The learning rate that the similarity of source and target recommends."""
FIND = "find"
"""The learning rate that a range test suggests."""
FIND_BLOCKS = "find_blocks"
"""The same, and one for each part of the network beside it."""
RANGE_TESTS = (FIND, FIND_BLOCKS)
SETS_BLOCKS = methods.with_fact("sets_blocks")
"""Methods that set the rates of the blocks from epoch to epoch."""
FINDS_RATES = methods.with_fact("finds_rates")
"""Methods that find the rates of all parts before training."""
BY_RULE = "rule"
"""The batch-norm momentum ``max(1 − 10 / s, 0.9)``, ``s`` steps per epoch."""
ALTERNATIVES = (
    ("learning_rate", "effective_learning_rate"),
    ("weight_decay", "effective_weight_decay"),
)
"""Two settings for the same thing; the second, unless it is None, takes the place of the first."""
