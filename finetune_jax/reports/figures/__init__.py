"""Figures of runs, data sets and networks, drawn without a display: plain arrays in, PNG bytes out."""

from finetune_jax.reports.figures.activation_maps import grad_cam_grid
from finetune_jax.reports.figures.alpha_beta import alpha_beta_grid
from finetune_jax.reports.figures.block_variations import trials, variations
from finetune_jax.reports.figures.confusion_matrix import confusion
from finetune_jax.reports.figures.curves import training_curves
from finetune_jax.reports.figures.domain_similarities import similarities
from finetune_jax.reports.figures.hyperparameter_curves import error_curves
from finetune_jax.reports.figures.method_comparison import compare_methods
from finetune_jax.reports.figures.neighbours import retrieval_strips
from finetune_jax.reports.figures.policies import policy_counts, policy_usage

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
