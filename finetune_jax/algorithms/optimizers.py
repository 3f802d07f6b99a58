"""Optimisers with one learning rate per part of the network, changeable without recompilation.

Rates, momentum and weight decay are arrays in the optimiser's state (``optax.inject_hyperparams`` inside
``optax.multi_transform``): an epoch with new rates, or a run with another momentum, is the same program with
other inputs. The state has the same structure whatever their values, 0 included.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

LearningRates = Mapping[str, Any]
"""``{top-level name of the parameters: scalar}``."""


class Rule(NamedTuple):
    """The optimiser of one block.

    Attributes:
        transform: of ``learning_rate`` and the hyperparameters, by name.
        hyperparameters: ``{name: value}`` beside the learning rate that the state starts with.
    """

    transform: Callable[..., optax.GradientTransformation]
    hyperparameters: Mapping[str, float]


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
        ValueError: names of ``params`` and ``learning_rates`` differ.
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
    """

    return per_block(params, learning_rates, dict.fromkeys(params, adamw(b1, b2, eps, weight_decay)))


def sgd(momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4) -> Rule:
    """The rule of :func:`per_block_sgd`."""

    def transform(learning_rate: Any, momentum: Any, weight_decay: Any) -> optax.GradientTransformation:
        plain = optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)
        return optax.chain(optax.add_decayed_weights(weight_decay), plain)

    return Rule(transform, {"momentum": float(momentum), "weight_decay": float(weight_decay)})


def adamw(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2) -> Rule:
    """The rule of :func:`per_block_adamw`."""

    def transform(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
        return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)

    return Rule(transform, {"weight_decay": float(weight_decay)})


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
    """
    if set(params) != set(learning_rates):
        raise ValueError(
            f"parameters have the blocks {sorted(params)}, learning rates {sorted(learning_rates)}"
        )
    transforms = {
        name: optax.inject_hyperparams(rules[name].transform)(
            learning_rate=rate, **rules[name].hyperparameters
        )
        for name, rate in learning_rates.items()
    }

    def labels(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {name: jax.tree.map(lambda _, name=name: name, tree[name]) for name in tree}

    return optax.multi_transform(transforms, labels)


def set_learning_rates(opt_state: Any, learning_rates: LearningRates) -> Any:
    """The optimiser state with other rates; steps compiled for the old state run it as it is.

    Args:
        opt_state: of an optimiser of this module.
        learning_rates: rates of the blocks to change.

    Raises:
        KeyError: a block the optimiser does not have.
    """
    inner_states = dict(opt_state.inner_states)
    for name, rate in learning_rates.items():
        if name not in inner_states:
            raise KeyError(f"no block {name!r} in the optimiser; it has {sorted(inner_states)}")
        injected = inner_states[name].inner_state
        rates = {
            **injected.hyperparams,
            "learning_rate": _placed_like(rate, injected.hyperparams["learning_rate"]),
        }
        inner_states[name] = inner_states[name]._replace(inner_state=injected._replace(hyperparams=rates))
    return opt_state._replace(inner_states=inner_states)


def reset(opt_state: Any) -> Any:
    """The optimiser state as before its first step, with the hyperparameters it has: no traces, no moments.

    Placement is kept, so steps compiled for the old state run it as it is.

    Args:
        opt_state: of an optimiser of this module, as arrays on devices.
    """
    empty = _zeros(jax.tree.map(lambda leaf: leaf.sharding, opt_state))(opt_state)
    inner_states = {}
    for name, masked in empty.inner_states.items():
        hyperparams = opt_state.inner_states[name].inner_state.hyperparams
        inner_states[name] = masked._replace(inner_state=masked.inner_state._replace(hyperparams=hyperparams))
    return empty._replace(inner_states=inner_states)


def get_learning_rates(opt_state: Any) -> dict[str, jax.Array]:
    """``{block name: scalar}``, the rates the next step will use."""
    return {
        name: masked.inner_state.hyperparams["learning_rate"]
        for name, masked in opt_state.inner_states.items()
    }


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


def _placed_like(value: Any, old: Any) -> Any:
    """``value`` with dtype, shape and placement of ``old``: anything else would compile the step again."""
    if isinstance(old, np.ndarray):
        return np.broadcast_to(np.asarray(value, old.dtype), old.shape)
    if isinstance(value, jax.core.Tracer) or isinstance(old, jax.core.Tracer) or not old.committed:
        return jnp.broadcast_to(jnp.asarray(value, old.dtype), old.shape)
    return jax.device_put(np.broadcast_to(np.asarray(value, old.dtype), old.shape), old.sharding)
