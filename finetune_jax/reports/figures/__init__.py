"""Figures of runs, data sets and networks, drawn without a display from plain arrays.

``figures.NAME(…)`` gives a file as bytes, PNG or by ``format=`` SVG or PDF; ``figures.draw_NAME(…)`` with the same
arguments gives the matplotlib ``Figure``, to be changed, shown in a notebook, or saved.

>>> import numpy as np
>>> from finetune_jax import figures
>>> figures.confusion(np.array([[9, 1], [2, 8]]), ["cat", "dog"])[1:4]
b'PNG'
>>> figures.draw_confusion(np.array([[9, 1], [2, 8]]), ["cat", "dog"]).axes[0].get_ylabel()
'true'
"""

from finetune_jax.reports.figures.activation_maps import draw_grad_cam_grid, grad_cam_grid, heat_over
from finetune_jax.reports.figures.alpha_beta import alpha_beta_grid, draw_alpha_beta_grid
from finetune_jax.reports.figures.block_variations import draw_trials, draw_variations, trials, variations
from finetune_jax.reports.figures.canvas import FORMATS, Format, encode
from finetune_jax.reports.figures.confusion_matrix import confusion, draw_confusion
from finetune_jax.reports.figures.curves import draw_training_curves, training_curves
from finetune_jax.reports.figures.domain_similarities import draw_similarities, similarities
from finetune_jax.reports.figures.hyperparameter_curves import draw_error_curves, error_curves
from finetune_jax.reports.figures.interpolation import draw_interpolation_curve, interpolation_curve
from finetune_jax.reports.figures.learning_curve import draw_learning_curve, learning_curve
from finetune_jax.reports.figures.method_comparison import compare_methods, draw_compare_methods
from finetune_jax.reports.figures.neighbours import draw_retrieval_strips, retrieval_strips
from finetune_jax.reports.figures.policies import (
    draw_policy_counts,
    draw_policy_usage,
    policy_counts,
    policy_usage,
)
from finetune_jax.reports.figures.pruning_curve import draw_pruning_curve, pruning_curve
from finetune_jax.reports.figures.reliability import draw_reliability, reliability
from finetune_jax.reports.figures.scatter import draw_scatter, scatter

__all__ = [
    "FORMATS",
    "Format",
    "alpha_beta_grid",
    "compare_methods",
    "confusion",
    "draw_alpha_beta_grid",
    "draw_compare_methods",
    "draw_confusion",
    "draw_error_curves",
    "draw_grad_cam_grid",
    "draw_interpolation_curve",
    "draw_learning_curve",
    "draw_policy_counts",
    "draw_policy_usage",
    "draw_pruning_curve",
    "draw_reliability",
    "draw_retrieval_strips",
    "draw_scatter",
    "draw_similarities",
    "draw_training_curves",
    "draw_trials",
    "draw_variations",
    "encode",
    "error_curves",
    "grad_cam_grid",
    "heat_over",
    "interpolation_curve",
    "learning_curve",
    "policy_counts",
    "policy_usage",
    "pruning_curve",
    "reliability",
    "retrieval_strips",
    "scatter",
    "similarities",
    "training_curves",
    "trials",
    "variations",
]
