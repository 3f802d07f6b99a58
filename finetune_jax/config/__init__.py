"""Settings of runs: from flags to one frozen config, without JAX."""

from finetune_jax.config.checks import validate as validate
from finetune_jax.config.recipes import changed as changed
from finetune_jax.config.recipes import recipe as recipe
from finetune_jax.config.settings import DataConfig as DataConfig
from finetune_jax.config.settings import FinetuneConfig as FinetuneConfig
