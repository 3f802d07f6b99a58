"""The names that settings choose among."""

METHODS = (
    "standard",
    "feature_extractor",
    "last_k",
    "stochastic",
    "l2_sp",
    "progressive",
    "scratch",
    "autolr",
    "spottune",
    "spottune_tuned",
    "spottune_global",
    "random_policy",
)
WITH_POLICY = ("spottune", "spottune_tuned", "spottune_global")
"""Methods that train a policy network."""
ROUTED = (*WITH_POLICY, "random_policy")
"""Methods with two copies of each block."""
TUNES_EVERYTHING = ("standard", "l2_sp", "scratch", "autolr")
PROTOCOLS = ("classification", "retrieval")
IN_PROPORTION = ("random_crop", "random_resized_crop")
"""Augmentations that are defined on images in their own proportions."""
CROPPING = ("crop", *IN_PROPORTION)
"""Augmentations that cut --image_size pixels out of larger stored images."""
AUGMENTATIONS = ("auto", "none", "flip", "pad_crop", "pad_crop_flip", *CROPPING)
RESIZE_MODES = ("auto", "stretch", "shorter_side")
NORMALIZATIONS = ("pretrained", "dataset")
SCHEDULES = ("constant", "step", "cosine", "cyclic", "sgdr")
OPTIMIZERS = ("sgd", "adamw")
LOSSES = ("cross_entropy", "proxy_anchor")
RETRIEVAL_SCORES = ("recall_at_1", "map_at_r")
SELECTION = ("validation", "test", "last")
AUTO = "auto"
"""The learning rate that the similarity of source and target recommends."""
BY_RULE = "rule"
"""The batch-norm momentum ``max(1 − 10 / s, 0.9)``, ``s`` steps per epoch."""
ALTERNATIVES = (
    ("learning_rate", "effective_learning_rate"),
    ("weight_decay", "effective_weight_decay"),
)
"""Two settings for the same thing; the second, unless it is None, takes the place of the first."""
