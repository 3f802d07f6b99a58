"""The methods by name: one line each."""

from collections.abc import Mapping

import jax

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models.network import Network, Variables
from finetune_jax.training.methods.adapted import Biases, Lora, Norms
from finetune_jax.training.methods.auto import Auto
from finetune_jax.training.methods.auto_rgn import AutoRGN
from finetune_jax.training.methods.auto_snr import AutoSNR
from finetune_jax.training.methods.autolr import AdaptedAutoLR, AutoLR
from finetune_jax.training.methods.l2_sp import L2SP
from finetune_jax.training.methods.method import Base, Method
from finetune_jax.training.methods.plain import FeatureExtractor, LastK, Scratch, Standard, Stochastic
from finetune_jax.training.methods.progressive import Progressive
from finetune_jax.training.methods.projection import Projected
from finetune_jax.training.methods.routed import RandomPolicy, SpotTune, SpotTuneGlobal, SpotTuneTuned
from finetune_jax.training.methods.tpgm import TPGM

METHODS: dict[str, type[Method]] = {
    "standard": Standard,
    "feature_extractor": FeatureExtractor,
    "last_k": LastK,
    "stochastic": Stochastic,
    "l2_sp": L2SP,
    "ftp": Projected,
    "tpgm": TPGM,
    "progressive": Progressive,
    "lora": Lora,
    "norms": Norms,
    "biases": Biases,
    "scratch": Scratch,
    "autolr": AutoLR,
    "auto": Auto,
    "auto_rgn": AutoRGN,
    "auto_snr": AutoSNR,
    "spottune": SpotTune,
    "spottune_tuned": SpotTuneTuned,
    "spottune_global": SpotTuneGlobal,
    "random_policy": RandomPolicy,
}
"""``{--method: what it is}``; a method is written as ``methods.method`` says."""

ADAPTED: Mapping[str, type[Method]] = {"lora": Lora, "autolr": AdaptedAutoLR}
"""What ``--adapters`` makes of the methods that it can be given with."""


def create(
    config: FinetuneConfig,
    network: Network,
    variables: Variables,
    key: jax.Array,
    *,
    axis_name: str | None = None,
) -> Method:
    """What ``config.method`` makes of a network; arguments as of ``Base``, errors as of :meth:`Method.create`."""
    methods: Mapping[str, type[Method]] = METHODS if config.adapters == "none" else ADAPTED
    return methods[config.method].create(config, Base(network, variables, key, axis_name))
