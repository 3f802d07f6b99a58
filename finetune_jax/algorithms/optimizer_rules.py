"""Optimisers by name, those of optax and ``optax.contrib``, as rules for :mod:`finetune_jax.algorithms.optimizers`.

Learning rate and weight decay are values of the optimiser's state. Weight decay is decoupled wherever the optimiser
has its own step size (the weights shrink by ``learning_rate · weight_decay`` in each step), and part of the gradient
for ``sgd``, ``dog`` and ``dowg``.

    >>> import jax.numpy as jnp
    >>> from finetune_jax.algorithms import optimizers
    >>> params = {"block_01": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
    >>> tx = optimizers.per_block(params, {"block_01": 1e-3, "head": 1e-2}, dict.fromkeys(params, create("lion")))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(updates["head"]["kernel"][0, 0]), 4)
    -0.01
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from finetune_jax.algorithms.weight_variation import is_kernel


class Rule(NamedTuple):
    """The optimiser of one block.

    Attributes:
        transform: of ``learning_rate`` and the hyperparameters, by name.
        hyperparameters: ``{name: value}`` beside the learning rate that the state starts with.
    """

    transform: Callable[..., optax.GradientTransformation]
    hyperparameters: Mapping[str, float]


class TensorFactors(NamedTuple):
    """State of :func:`by_tensor`.

    Attributes:
        tensor_factors: of the rate, a scalar for every array of the block.
    """

    tensor_factors: Any


def by_tensor(rule: Rule) -> Rule:
    """A rule in which each array of a block has a factor of its own, 1 at the start, on the rate of the block.

    Examples:
        >>> by_tensor(sgd(momentum=0.5, weight_decay=0.0)).hyperparameters
        {'momentum': 0.5, 'weight_decay': 0.0}
    """

    def start(params: Any) -> TensorFactors:
        return TensorFactors(jax.tree.map(lambda _: jnp.ones(()), params))

    def scale(updates: Any, state: TensorFactors, params: Any = None) -> tuple[Any, TensorFactors]:
        del params
        return jax.tree.map(jnp.multiply, updates, state.tensor_factors), state

    @functools.wraps(rule.transform)  # whose signature names the hyperparameters
    def transform(*values: Any, **named: Any) -> optax.GradientTransformation:
        return optax.chain(rule.transform(*values, **named), optax.GradientTransformation(start, scale))

    return Rule(transform, rule.hyperparameters)


def split_rates(
    rates: Mapping[str, Any], blocks: Collection[str]
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Rates of blocks, and factors on them of arrays that have rates of their own.

    Args:
        rates: of blocks, and of arrays such as ``block_01/conv/kernel`` together with that of their block.
        blocks: names of all blocks.

    Examples:
        >>> split_rates({"block_01": 0.5, "block_01/kernel": 0.25}, {"block_01"})
        ({'block_01': 0.5}, {'block_01': {'block_01/kernel': 0.5}})
    """
    of_blocks, factors = dict[str, Any](), dict[str, dict[str, float]]()
    for name, rate in rates.items():
        block = name.partition("/")[0]
        if name in blocks or block == name or block not in rates:
            of_blocks[name] = rate
        else:
            whole = float(rates[block])
            factors.setdefault(block, {})[name] = float(rate) / whole if whole else 0.0
    return of_blocks, factors


def with_tensor_factors(state: Any, factors: Mapping[str, float]) -> Any:
    """The state of a block with other factors of its arrays.

    Args:
        state: of a rule of :func:`by_tensor`.
        factors: ``{BLOCK/…/array: factor}``; others stay.

    Raises:
        KeyError: an array without a factor of its own.
    """
    unknown = set(factors)

    def changed(path: Any, leaf: Any) -> Any:
        names = [getattr(key, "name", "") for key in path]
        if "tensor_factors" not in names:
            return leaf
        name = "/".join(str(key.key) for key in path[names.index("tensor_factors") + 1 :])
        unknown.discard(name)
        return placed_like(factors[name], leaf) if name in factors else leaf

    new_state = jax.tree_util.tree_map_with_path(changed, state)
    if unknown:
        raise KeyError(f"no array {min(unknown)!r} with a factor of its own in the optimiser")
    return new_state


def placed_like(value: Any, old: Any) -> Any:
    """``value`` with dtype, shape and placement of ``old``: anything else would compile the step again."""
    if isinstance(old, np.ndarray):
        return np.broadcast_to(np.asarray(value, old.dtype), old.shape)
    if isinstance(value, jax.core.Tracer) or isinstance(old, jax.core.Tracer) or not old.committed:
        return jnp.broadcast_to(jnp.asarray(value, old.dtype), old.shape)
    return jax.device_put(np.broadcast_to(np.asarray(value, old.dtype), old.shape), old.sharding)


WITHOUT_RATE = ("prodigy", "dadapt_adamw", "dog", "dowg", "mechanize", "momo")
"""Optimisers that estimate their step size from all parameters together; 1 is the rate to give them."""

FROM_THE_START = ("schedule_free_adamw", *WITHOUT_RATE)
"""Optimisers that remember where they started, which a trial that starts over cannot."""


def sgd(
    momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4, decay_norms: bool = True
) -> Rule:
    """``torch.optim.SGD``: decay is added to the gradient before momentum.

    Args:
        momentum: 0 is plain SGD.
        nesterov: gradient at the looked-ahead weights.
        weight_decay: factor of the weights added to the gradient.
        decay_norms: whether norms and biases decay as well, see :func:`decaying`.

    Examples:
        >>> from finetune_jax import optimizers
        >>> optimizers.sgd(momentum=0.9, weight_decay=0.0001).hyperparameters
        {'momentum': 0.9, 'weight_decay': 0.0001}
    """
    mask = None if decay_norms else decaying

    def transform(learning_rate: Any, momentum: Any, weight_decay: Any) -> optax.GradientTransformation:
        plain = optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)
        return optax.chain(optax.add_decayed_weights(weight_decay, mask), plain)

    return Rule(transform, {"momentum": float(momentum), "weight_decay": float(weight_decay)})


def adamw(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    decay_norms: bool = True,
) -> Rule:
    """``torch.optim.AdamW``.

    Args:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        weight_decay: the weights shrink by ``learning_rate · weight_decay`` in each step.
        decay_norms: whether norms and biases decay as well, see :func:`decaying`.

    Examples:
        >>> from finetune_jax import optimizers
        >>> optimizers.adamw(weight_decay=0.05).hyperparameters
        {'weight_decay': 0.05}
    """
    mask = None if decay_norms else decaying

    def transform(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
        return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)

    return Rule(transform, {"weight_decay": float(weight_decay)})


def create(name: str, *, weight_decay: float = 0.0, decay_norms: bool = True) -> Rule:
    """The optimiser called ``name`` with optax's defaults; SGD and AdamW have functions with more to choose.

    - ``adam``: decay is part of the gradient, as in ``torch.optim.Adam``.
    - ``muon``: convolutions are matrices of inputs × outputs; vectors, tokens and the classifier are AdamW's. Updates
      have AdamW's root mean square (Liu et al., "Muon is Scalable for LLM Training", 2025), so they take its rates.
    - ``adafactor``: of Shazeer and Stern (2018), the rate relative to the scale of each array.
    - ``mechanize``: Mechanic around AdamW.
    - ``schedule_free_adamw``: steps are taken at one point and networks evaluated at another, see
      :func:`finetune_jax.algorithms.optimizers.evaluation_params`.
    - ``momo`` needs the loss: ``update(…, value=loss)``. The rate is an upper limit of its step size.

    Args:
        name: of :data:`NAMES`.
        weight_decay: factor of the weights.
        decay_norms: whether norms and biases decay as well, see :func:`decaying`.

    Raises:
        ValueError: there is no such optimiser, or it decays all or nothing and ``decay_norms`` is False.

    Examples:
        >>> from finetune_jax import optimizers
        >>> optimizers.create("lion", weight_decay=0.1).hyperparameters
        {'weight_decay': 0.1}
    """
    if name not in _TRANSFORMS:
        raise ValueError(f"no optimiser is called {name!r}; there are {', '.join(NAMES)}")
    if name in DECAYS_EVERYTHING and weight_decay and not decay_norms:
        raise ValueError(f"{name} decays all parameters or none; give it no weight decay, or decay norms too")
    make = _TRANSFORMS[name]
    mask = None if decay_norms else decaying

    def transform(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
        optimizer = _with_copies(make(learning_rate, weight_decay, mask))
        return _waiting(optimizer, learning_rate) if name in WITHOUT_RATE else optimizer

    return Rule(transform, {"weight_decay": float(weight_decay)})


def decaying(params: Any) -> Any:
    """Which leaves decay where norms and biases do not: the kernels, as in timm (``ndim > 1`` and not a bias).

    Args:
        params: a tree of dicts.

    Returns:
        The same tree of booleans.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: is_kernel(_names(path), leaf), params)


def _names(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(entry, "key", entry)) for entry in path)


def _adam(rate: Any, decay: Any, mask: Any) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(decay, mask), optax.adam(rate))


def _adafactor(rate: Any, decay: Any, mask: Any) -> optax.GradientTransformation:
    # optax would not multiply the decay by the rate.
    return optax.adafactor(rate, weight_decay_rate=rate * decay, weight_decay_mask=mask)


def _muon(rate: Any, decay: Any, mask: Any) -> optax.GradientTransformation:
    def matrices(params: Any) -> Any:
        def of(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
            names = _names(path)
            if not is_kernel(names, leaf) or jnp.ndim(leaf) < 2 or "classifier" in names:
                return None
            axes = jnp.ndim(leaf) - 1
            return optax.contrib.MuonDimensionNumbers(tuple(range(axes)), (axes,))

        return jax.tree_util.tree_map_with_path(of, params)

    plain = optax.contrib.muon(rate, consistent_rms=0.2, muon_weight_dimension_numbers=matrices)
    # Both of its optimisers decay alike, as optax's own arguments could not with a mask.
    return optax.chain(plain, optax.add_decayed_weights(-rate * decay, mask))


def _schedule_free_adamw(rate: Any, decay: Any, mask: Any) -> optax.GradientTransformation:
    base = optax.chain(
        optax.scale_by_rms(decay=0.999, eps=1e-8, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(decay, mask),
        optax.scale_by_learning_rate(rate),
    )
    return optax.contrib.schedule_free(base, rate, b1=SCHEDULE_FREE_B1)


SCHEDULE_FREE_B1 = 0.9
"""Share of the averaged weights in the point at which Schedule-Free takes gradients."""

_TRANSFORMS: Mapping[str, Callable[[Any, Any, Any], optax.GradientTransformation]] = {
    "adam": _adam,
    "lamb": lambda rate, decay, mask: optax.lamb(rate, weight_decay=decay, mask=mask),
    "lion": lambda rate, decay, mask: optax.lion(rate, weight_decay=decay, mask=mask),
    "adafactor": _adafactor,
    "muon": _muon,
    "schedule_free_adamw": _schedule_free_adamw,
    "prodigy": lambda rate, decay, mask: optax.contrib.prodigy(rate, weight_decay=decay),
    "dadapt_adamw": lambda rate, decay, mask: optax.contrib.dadapt_adamw(rate, weight_decay=decay),
    "dog": lambda rate, decay, mask: optax.contrib.dog(rate, weight_decay=decay, mask=mask),
    "dowg": lambda rate, decay, mask: optax.contrib.dowg(rate, weight_decay=decay, mask=mask),
    "mechanize": lambda rate, decay, mask: optax.contrib.mechanize(
        optax.adamw(rate, weight_decay=decay, mask=mask)
    ),
    "momo": lambda rate, decay, mask: optax.contrib.momo(rate, weight_decay=decay),
}
NAMES = ("sgd", "adamw", *_TRANSFORMS)
"""Optimisers that have a rule."""

DECAYS_EVERYTHING = ("prodigy", "dadapt_adamw", "momo")
"""Optimisers whose weight decay takes no mask."""


def _with_copies(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The transform, its state sharing no array with the parameters: both are donated to the step."""
    extended = optax.with_extra_args_support(transform)
    return optax.GradientTransformationExtraArgs(
        lambda params: extended.init(jax.tree.map(jnp.array, params)), extended.update
    )


def _waiting(
    transform: optax.GradientTransformationExtraArgs, learning_rate: Any
) -> optax.GradientTransformationExtraArgs:
    """The transform, standing still as long as its rate or all of its gradients are zero.

    An estimate of a step size from no step, or from no gradient, would be 0 / 0.
    """

    def update(gradients: Any, state: Any, params: Any = None, **values: Any) -> tuple[Any, Any]:
        updates, following = transform.update(gradients, state, params, **values)
        moving = (learning_rate > 0) & (optax.tree.norm(gradients) > 0)
        still = jax.tree.map(jnp.zeros_like, updates)
        return jax.tree.map(
            lambda new, old: jnp.where(moving, new, old), (updates, following), (still, state)
        )

    return optax.GradientTransformationExtraArgs(transform.init, update)


def slowed(rule: Rule, layers: Collection[str], factor: float, *, one_estimate: bool = False) -> Rule:
    """The rule with a smaller learning rate for some layers of its block.

    Args:
        rule: of the block.
        layers: names of layers on the first level of the block.
        factor: of their rates, a value of the optimiser's state like the others.
        one_estimate: whether the rule estimates a step size from all of the block (:data:`WITHOUT_RATE`), so that the
            updates are scaled instead.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax.algorithms import optimizers
        >>> params = {"head": {"norm": jnp.ones(1), "classifier": jnp.ones(1)}}
        >>> rule = slowed(sgd(0.0, weight_decay=0.0), ("norm",), 0.5)
        >>> tx = optimizers.per_block(params, {"head": 0.1}, {"head": rule})
        >>> updates, _ = tx.update(params, tx.init(params), params)
        >>> round(float(updates["head"]["norm"][0]), 4), round(float(updates["head"]["classifier"][0]), 4)
        (-0.05, -0.1)
    """

    def is_slow(path: Any) -> bool:
        return not set(layers).isdisjoint(getattr(entry, "key", None) for entry in path)

    def transform(learning_rate: Any, slowing: Any, **hyperparameters: Any) -> optax.GradientTransformation:
        base_transform = rule.transform(learning_rate, **hyperparameters)
        if one_estimate:
            return _followed_by(base_transform, lambda path, leaf: leaf * slowing if is_slow(path) else leaf)
        slow = rule.transform(learning_rate * slowing, **hyperparameters)
        return optax.multi_transform(
            {True: slow, False: base_transform},
            lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: is_slow(path), tree),
        )

    # optax finds the names of the values of its state in the signature.
    names = ("learning_rate", "slowing", *rule.hyperparameters)
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    transform.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return Rule(transform, {**rule.hyperparameters, "slowing": float(factor)})


def _followed_by(
    transform: optax.GradientTransformation, change: Callable[[Any, Any], Any]
) -> optax.GradientTransformationExtraArgs:
    """The transform, its updates changed afterwards."""
    extended = optax.with_extra_args_support(transform)

    def update(gradients: Any, state: Any, params: Any = None, **values: Any) -> tuple[Any, Any]:
        updates, following = extended.update(gradients, state, params, **values)
        return jax.tree_util.tree_map_with_path(change, updates), following

    return optax.GradientTransformationExtraArgs(extended.init, update)
