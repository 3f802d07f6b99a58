"""AutoLR: one learning rate per block, tuned until higher blocks move further than lower ones.

Ro and Choi, "AutoLR: Layer-wise Pruning and Auto-tuning of Learning Rates in Fine-tuning of Deep Networks"
(AAAI 2021); equation numbers are theirs. There are K blocks, the one nearest to the input first, and every
quantity per block is an array ``[K]`` in that order: float64 where it is given as float64, else float32.

Every epoch is a series of trials from the same start, until `update` accepts one::

    state = autolr.init(config, learning_rates)
    while state.epoch < epochs:
        trained = train_one_epoch(start, state.learning_rates)
        variations = autolr.weight_variation(start, trained)
        state, outcome = autolr.update(config, state, variations, finite=loss_was_finite)
        if outcome.stop:
            raise ...
        if outcome.accepted:
            start = trained

`Tuner` does all of that, names, head and stem included, in a loop around parameters of any kind: plain dictionaries,
states of Flax NNX, modules of Equinox, parameters of Haiku.
"""

from finetune_jax.algorithms.autolr_state import SPACINGS as SPACINGS
from finetune_jax.algorithms.autolr_state import AutoLRConfig as AutoLRConfig
from finetune_jax.algorithms.autolr_state import AutoLROutcome as AutoLROutcome
from finetune_jax.algorithms.autolr_state import AutoLRState as AutoLRState
from finetune_jax.algorithms.autolr_state import init as init
from finetune_jax.algorithms.autolr_state import initial_targets as initial_targets
from finetune_jax.algorithms.autolr_state import renewed_learning_rates as renewed_learning_rates
from finetune_jax.algorithms.autolr_state import renewed_targets as renewed_targets
from finetune_jax.algorithms.autolr_state import sorting_quality as sorting_quality
from finetune_jax.algorithms.autolr_state import update as update
from finetune_jax.algorithms.autolr_tuner import Tuner as Tuner
from finetune_jax.algorithms.weight_variation import MEASURES as MEASURES
from finetune_jax.algorithms.weight_variation import Include as Include
from finetune_jax.algorithms.weight_variation import accumulated_gradient_norms as accumulated_gradient_norms
from finetune_jax.algorithms.weight_variation import block_names as block_names
from finetune_jax.algorithms.weight_variation import is_kernel as is_kernel
from finetune_jax.algorithms.weight_variation import kernel_counts as kernel_counts
from finetune_jax.algorithms.weight_variation import weight_variation as weight_variation
