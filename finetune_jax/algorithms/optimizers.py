"""Optimisers with one learning rate per part of the network, changeable without recompilation.

Rates, momentum and weight decay are arrays in the optimiser's state (``optax.inject_hyperparams`` inside
``optax.multi_transform``): an epoch with new rates, or a run with another momentum, is the same program with
other inputs. The state has the same structure whatever their values, 0 included.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from finetune_jax.algorithms.optimizer_rules import (
    SCHEDULE_FREE_B1,
    Rule,
    adamw,
    create,
    placed_like,
    sgd,
    split_rates,
    with_tensor_factors,
)

__all__ = [
    "OneForAll",
    "Rule",
    "adamw",
    "create",
    "evaluation_params",
    "get_learning_rates",
    "one_for_all",
    "per_block",
    "per_block_adamw",
    "per_block_sgd",
    "reset",
    "set_learning_rates",
    "sgd",
]

LearningRates = Mapping[str, Any]
"""``{top-level name of the parameters: scalar}``."""


class OneForAll(NamedTuple):
    """State of :func:`one_for_all`.

    Attributes:
        learning_rates: ``{part: []}``.
        inner: of the optimisers; their rates follow from ``learning_rates`` in every step.
    """

    learning_rates: dict[str, Any]
    inner: Any


def per_block_sgd(
    params: Mapping[str, Any],
    learning_rates: LearningRates,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
) -> optax.GradientTransformation:
    """SGD with one learning rate per block, numerically ``torch.optim.SGD``.

    The decay is added to the gradient before momentum (AutoLR, Eq. 5; Rethinking the Hyperparameters,
    Eq. 1–2), and applies to every parameter.

    Args:
        params: ``{block name: tree}``; only the names are used.
        learning_rates: one rate for every name in ``params``, and no other.
        momentum: 0 is plain SGD.
        nesterov: gradient at the looked-ahead weights; no effect without momentum.
        weight_decay: factor of the weights added to the gradient.

    Raises:
        ValueError: names of ``params`` and ``learning_rates`` differ, or ``params`` is no plain dict.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> tx = optimizers.per_block_sgd(params, {"block_01": 0.01, "head": 0.1}, momentum=0.0, weight_decay=0.0)
        >>> gradients = params
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> {name: round(float(tree["kernel"][0]), 4) for name, tree in updates.items()}
        {'block_01': -0.01, 'head': -0.1}
    """

    return per_block(params, learning_rates, dict.fromkeys(params, sgd(momentum, nesterov, weight_decay)))


def per_block_adamw(
    params: Mapping[str, Any],
    learning_rates: LearningRates,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> optax.GradientTransformation:
    """AdamW with one learning rate per block, numerically ``torch.optim.AdamW``.

    Args:
        params: ``{block name: tree}``; only the names are used.
        learning_rates: one rate for every name in ``params``, and no other.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        weight_decay: the weights shrink by ``learning_rate · weight_decay`` in each step.

    Raises:
        ValueError: names of ``params`` and ``learning_rates`` differ.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> tx = optimizers.per_block_adamw(params, {"block_01": 0.01, "head": 0.1}, weight_decay=0.0)
        >>> gradients = params
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> {name: round(float(tree["kernel"][0]), 4) for name, tree in updates.items()}
        {'block_01': -0.01, 'head': -0.1}
    """

    return per_block(params, learning_rates, dict.fromkeys(params, adamw(b1, b2, eps, weight_decay)))


def per_block(
    params: Mapping[str, Any], learning_rates: LearningRates, rules: Mapping[str, Rule]
) -> optax.GradientTransformation:
    """One learning rate and one rule per block.

    Args:
        params: ``{block name: tree}``; only the names are used.
        learning_rates: one rate for every name in ``params``, and no other.
        rules: one for every name in ``params``.

    Raises:
        ValueError: names of ``params`` and ``learning_rates`` differ.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> rules = {"block_01": optimizers.sgd(momentum=0.0, weight_decay=0.0), "head": optimizers.create("lion")}
        >>> tx = optimizers.per_block(params, {"block_01": 0.01, "head": 0.1}, rules)
        >>> gradients = params
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> {name: round(float(tree["kernel"][0]), 4) for name, tree in updates.items()}
        {'block_01': -0.01, 'head': -0.1}
    """
    _check_names(params, learning_rates)
    if not isinstance(params, dict):
        raise ValueError(
            f"params must be a plain dict of the blocks, as the gradients then are, got a {type(params).__name__}; "
            "flax.nnx.to_pure_dict(state) makes one of a state of Flax NNX"
        )
    transforms = {name: _injected(rules[name], rate) for name, rate in learning_rates.items()}

    def labels(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {name: jax.tree.map(lambda _, name=name: name, tree[name]) for name in tree}

    return optax.multi_transform(transforms, labels)


def one_for_all(
    params: Mapping[str, Any],
    learning_rates: LearningRates,
    rule: Rule,
    apart: Mapping[str, Rule] = MappingProxyType({}),
) -> optax.GradientTransformationExtraArgs:
    """One optimiser over all blocks together, as its paper has it, with one learning rate per block.

    For optimisers that estimate their step size from all parameters (``optimizer_rules.WITHOUT_RATE``); with
    :func:`per_block` every block has an estimate of its own. The optimiser runs at the largest of the rates, and the
    update of every block is multiplied with its share of it.

    Args:
        params: ``{block name: tree}``; only the names are used.
        learning_rates: one rate for every name in ``params``, and no other.
        rule: of the optimiser.
        apart: rules of blocks with an optimiser of their own.

    Raises:
        ValueError: names of ``params`` and ``learning_rates`` differ.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> tx = optimizers.one_for_all(params, {"block_01": 0.5, "head": 1.0}, optimizers.create("prodigy"))
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(updates["block_01"]["kernel"][0] / updates["head"]["kernel"][0] == 0.5)
        True
    """
    _check_names(params, learning_rates)
    together = [name for name in learning_rates if name not in apart]
    transforms = {
        _TOGETHER: _injected(rule, 0.0),
        **{name: _injected(apart[name], learning_rates[name]) for name in learning_rates if name in apart},
    }

    def labels(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: jax.tree.map(lambda _, name=name: name if name in apart else _TOGETHER, tree[name])
            for name in tree
        }

    optimizer = optax.multi_transform(transforms, labels)

    def init(params: Any) -> OneForAll:
        dtype = optax.tree.dtype(params, "highest")
        rates = {name: jnp.asarray(rate, dtype) for name, rate in learning_rates.items()}
        return OneForAll(rates, optimizer.init(params))

    def update(gradients: Any, state: OneForAll, params: Any = None, **values: Any) -> tuple[Any, OneForAll]:
        rates = state.learning_rates
        largest = functools.reduce(jnp.maximum, [rates[name] for name in together])
        of_optimizers = {_TOGETHER: largest, **{name: rates[name] for name in apart}}
        inner = set_learning_rates(state.inner, of_optimizers)
        updates, inner = optimizer.update(gradients, inner, params, **values)
        divisor = jnp.where(largest > 0, largest, 1)
        for name in together:
            share = rates[name] / divisor
            updates = {**updates, name: jax.tree.map(lambda leaf, share=share: leaf * share, updates[name])}
        return updates, OneForAll(rates, inner)

    return optax.GradientTransformationExtraArgs(init, update)


_TOGETHER = "together"


def _check_names(params: Mapping[str, Any], learning_rates: LearningRates) -> None:
    if set(params) != set(learning_rates):
        raise ValueError(
            f"parameters have the blocks {sorted(params)}, learning rates {sorted(learning_rates)}"
        )


def _injected(rule: Rule, rate: Any) -> optax.GradientTransformation:
    return optax.inject_hyperparams(rule.transform)(learning_rate=rate, **rule.hyperparameters)


def set_learning_rates(opt_state: Any, learning_rates: LearningRates) -> Any:
    """The optimiser state with other rates; steps compiled for the old state run it as it is.

    Args:
        opt_state: of an optimiser of this module.
        learning_rates: rates of the blocks to change, with ``optimizer_rules.by_tensor`` also of arrays in them.

    Raises:
        KeyError: a block the optimiser does not have.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> tx = optimizers.per_block_sgd(params, {"block_01": 0.01, "head": 0.1})
        >>> state = optimizers.set_learning_rates(tx.init(params), {"head": 0.5})
        >>> float(optimizers.get_learning_rates(state)["head"])
        0.5
    """
    if isinstance(opt_state, OneForAll):
        if unknown := sorted(set(learning_rates) - set(opt_state.learning_rates)):
            raise KeyError(
                f"no block {unknown[0]!r} in the optimiser; it has {sorted(opt_state.learning_rates)}"
            )
        placed = {
            name: placed_like(rate, opt_state.learning_rates[name]) for name, rate in learning_rates.items()
        }
        return opt_state._replace(learning_rates={**opt_state.learning_rates, **placed})
    inner_states = dict(opt_state.inner_states)
    blocks, factors = split_rates(learning_rates, inner_states)
    for name, rate in blocks.items():
        if name not in inner_states:
            raise KeyError(f"no block {name!r} in the optimiser; it has {sorted(inner_states)}")
        injected = inner_states[name].inner_state
        rates = {
            **injected.hyperparams,
            "learning_rate": placed_like(rate, injected.hyperparams["learning_rate"]),
        }
        inner_states[name] = inner_states[name]._replace(inner_state=injected._replace(hyperparams=rates))
    for name, of_arrays in factors.items():
        inner_states[name] = with_tensor_factors(inner_states[name], of_arrays)
    return opt_state._replace(inner_states=inner_states)


def reset(opt_state: Any) -> Any:
    """The optimiser state as before its first step, with the hyperparameters it has: no traces, no moments.

    Placement is kept, so steps compiled for the old state run it as it is.

    Args:
        opt_state: of an optimiser of this module, as arrays on devices; none of
            ``optimizer_rules.FROM_THE_START``, which do not start from zeros.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> tx = optimizers.per_block_sgd(params, {"block_01": 0.25, "head": 0.5}, momentum=0.9, nesterov=False)
        >>> first, state = tx.update(params, tx.init(params), params)
        >>> again, _ = tx.update(params, optimizers.reset(state), params)
        >>> bool((first["head"]["kernel"] == again["head"]["kernel"]).all())
        True
    """
    empty = _zeros(jax.tree.map(lambda leaf: leaf.sharding, opt_state))(opt_state)

    def kept_or_zero(path: Any, old: Any, zero: Any) -> Any:
        return old if _CONSTANT.intersection(getattr(key, "name", "") for key in path) else zero

    return jax.tree_util.tree_map_with_path(kept_or_zero, opt_state, empty)


_CONSTANT = {"hyperparams", "ns_coeffs", "tensor_factors"}
"""Fields of optimiser states that no step changes; the second are Muon's coefficients."""


def get_learning_rates(opt_state: Any) -> dict[str, jax.Array]:
    """``{block name: scalar}``, the rates the next step will use.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> tx = optimizers.per_block_sgd(params, {"block_01": 0.25, "head": 0.5})
        >>> {name: float(rate) for name, rate in optimizers.get_learning_rates(tx.init(params)).items()}
        {'block_01': 0.25, 'head': 0.5}
    """
    if isinstance(opt_state, OneForAll):
        return dict(opt_state.learning_rates)
    return {
        name: masked.inner_state.hyperparams["learning_rate"]
        for name, masked in opt_state.inner_states.items()
    }


def evaluation_params(opt_state: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """The weights to evaluate: for blocks of ``schedule_free_adamw`` the averaged ones, else those of the steps.

    Defazio et al., "The Road Less Scheduled" (2024): steps are taken at ``y = (1 − β) z + β x``, and ``x`` is the
    result.

    Args:
        opt_state: of an optimiser of this module.
        params: ``{block name: tree}``, as the steps left them.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import optimizers
        >>> params = {"block_01": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> rule = optimizers.create("schedule_free_adamw")
        >>> tx = optimizers.per_block(params, {"block_01": 0.01, "head": 0.1}, dict.fromkeys(params, rule))
        >>> averaged = optimizers.evaluation_params(tx.init(params), params)
        >>> averaged["head"]["kernel"].round(4).tolist()
        [1.0, 1.0]
    """
    inner_states = getattr(opt_state, "inner_states", {})
    averaged = dict(params)
    for name in params:
        masked = inner_states.get(name)
        state = None if masked is None else masked.inner_state.inner_state
        for node in jax.tree.leaves(state, is_leaf=_is_schedule_free):
            if _is_schedule_free(node):
                averaged[name] = jax.tree.map(_average, node.z[name], averaged[name], is_leaf=_is_masked)
    return averaged


def _is_schedule_free(node: Any) -> bool:
    return isinstance(node, optax.contrib.ScheduleFreeState)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _average(z: Any, y: Any) -> Any:
    return y if _is_masked(z) else (y - (1 - SCHEDULE_FREE_B1) * z) / SCHEDULE_FREE_B1


def _zeros(shardings: Any) -> Callable[[Any], Any]:
    leaves, structure = jax.tree.flatten(shardings)
    return _compiled_zeros(tuple(leaves), structure)


@functools.cache
def _compiled_zeros(shardings: tuple[Any, ...], structure: Any) -> Callable[[Any], Any]:
    # Zeros depend on no input, so without being told JAX would place them somewhere of its own choice.
    return jax.jit(
        lambda tree: jax.tree.map(jnp.zeros_like, tree),
        out_shardings=jax.tree.unflatten(structure, shardings),
    )
