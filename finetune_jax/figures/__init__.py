"""Figures of runs, data sets and networks, drawn without a display: plain arrays in, PNG bytes out."""

from finetune_jax.figures.activation_maps import grad_cam_grid
from finetune_jax.figures.alpha_beta import alpha_beta_grid
from finetune_jax.figures.block_variations import trials, variations
from finetune_jax.figures.confusion_matrix import confusion
from finetune_jax.figures.curves import training_curves
from finetune_jax.figures.domain_similarities import similarities
from finetune_jax.figures.hyperparameter_curves import error_curves
from finetune_jax.figures.method_comparison import compare_methods
from finetune_jax.figures.neighbours import retrieval_strips
from finetune_jax.figures.policies import policy_counts, policy_usage

__all__ = [
    "alpha_beta_grid",
    "compare_methods",
    "confusion",
    "error_curves",
    "grad_cam_grid",
    "policy_counts",
    "policy_usage",
    "retrieval_strips",
    "similarities",
    "training_curves",
    "trials",
    "variations",
]
