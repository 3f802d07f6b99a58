"""AutoLR in a training loop of one's own, around parameters of any kind."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from finetune_jax.algorithms.autolr_state import AutoLRConfig, AutoLROutcome, AutoLRState, init, update
from finetune_jax.algorithms.weight_variation import Include, block_names, is_kernel, weight_variation

STEM, HEAD = "stem", "head"
_DIVERGED_FACTOR = 0.1
_BLOCK = re.compile(r"block_\w+")
_STEM_SHARE = 0.5


class Tuner:
    """Which learning rate every parameter has in the next trial, and whether a trial counts.

    Parameters are any pytree: nested dictionaries, ``nnx.state(model, nnx.Param)``, an Equinox module, what Haiku's
    ``init`` gives. A parameter belongs to a block if the block's name stands in its path: ``block_1``, or
    ``layers/0`` for the first of a list ``layers``. Parameters below the blocks are the stem, which takes half the rate
    of the first block once rates have been renewed; all others are the head, which keeps a rate of its own.

    The loop around it, with what is easily forgotten::

        tuner = Tuner(params)
        while tuner.epoch < epochs:
            start = params, batch_stats            # a trial begins with the epoch's weights and statistics,
            momentum = zeros_like(params)          # and without momentum
            params, batch_stats, finite = one_pass(*start, momentum, tuner.rates_of(params))
            if not tuner.judge(start[0], params, finite=finite).accepted:
                params, batch_stats = start

    Attributes:
        state: of Algorithm 2, a tuple of arrays that may be saved and put back.
        head_learning_rate: of the head in the next trial; falls where trials diverge.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import autolr
        >>> params = {"net/block_1": {"w": np.zeros((2, 2))}, "net/block_2": {"w": np.zeros((2, 2))},
        ...           "net/out": {"w": np.zeros((2, 2)), "b": np.zeros(2)}}
        >>> tuner = autolr.Tuner(params, learning_rate=0.5, head_learning_rate=0.25)
        >>> tuner.rates
        {'block_1': 0.5, 'block_2': 0.5, 'head': 0.25}
        >>> moved = {**params, "net/block_1": {"w": np.full((2, 2), 0.5)}}
        >>> bool(tuner.judge(params, moved).accepted), tuner.epoch
        (False, 0)
        >>> tuner.rates["block_1"] < 0.5
        True
    """

    def __init__(
        self,
        params: Any,
        *,
        learning_rate: float = 1e-3,
        head_learning_rate: float = 1e-2,
        config: AutoLRConfig | None = None,
        blocks: Sequence[str] | None = None,
        stem: Sequence[str] = (STEM,),
        include: Include = is_kernel,
    ) -> None:
        """Find the blocks.

        Args:
            params: any pytree with the paths of all that is trained; only names and shapes count.
            learning_rate: of blocks and stem in the first trial; the paper's 0.001 suits the rates of SGD after
                ImageNet.
            head_learning_rate: of everything above the blocks.
            config: settings of the algorithm.
            blocks: their names from the input up; by default all names ``block_*`` in the paths, by their number.
            stem: names of what is below the blocks.
            include: which leaves of a block count for its variation, see `is_kernel`.

        Raises:
            ValueError: fewer than two blocks, one without a parameter, or a rate out of range.
        """
        paths = [path for path, _ in _leaves(params)]
        if blocks is None:
            names = {match[0] for path in paths for name in path if (match := _BLOCK.fullmatch(name))}
            blocks = block_names(dict.fromkeys(names))
        self.blocks = tuple(blocks)
        if len(self.blocks) < 2:
            raise ValueError(
                f"there must be two blocks or more, got {list(self.blocks)}; give blocks=, names out of paths such as "
                f"{', '.join('/'.join(path) for path in paths[:5])}"
            )
        self._stem = tuple(stem)
        parts = {self.part_of(path) for path in paths}
        if absent := [name for name in self.blocks if name not in parts]:
            raise ValueError(f"no parameter is of the block {absent[0]!r}")
        self._has = {name for name in (STEM, HEAD) if name in parts}
        self._first_rate = np.float32(learning_rate)
        self._config = config or AutoLRConfig()
        self._include = include
        self.head_learning_rate = float(head_learning_rate)
        self.state: AutoLRState = jax.device_get(
            init(self._config, np.full(len(self.blocks), learning_rate, np.float32))
        )

    @property
    def epoch(self) -> int:
        """Epochs that are done, those whose last trial was accepted."""
        return int(self.state.epoch)

    @property
    def trial(self) -> int:
        """Trials of the current epoch so far."""
        return int(self.state.trial)

    @property
    def rates(self) -> dict[str, float]:
        """``{part: learning rate}`` of the next trial: stem, blocks, head, those that there are."""
        of_blocks = dict(zip(self.blocks, map(float, self.state.learning_rates), strict=True))
        renewed = bool((np.asarray(self.state.learning_rates) != self._first_rate).any())
        stem = of_blocks[self.blocks[0]] * (_STEM_SHARE if renewed else 1.0)
        rates = {STEM: stem, **of_blocks, HEAD: self.head_learning_rate}
        return {name: rate for name, rate in rates.items() if name in self._has or name in of_blocks}

    def rates_of(self, params: Any) -> Any:
        """The rate of every leaf, a pytree like ``params`` of float32 ``[]``.

        An argument of a compiled step, so that other rates compile nothing::

            updates, momentum = optax.trace(0.9, nesterov=True).update(gradients, momentum)
            params = jax.tree.map(lambda w, update, rate: w - rate * update, params, updates, rates)
        """
        rates = self.rates
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        of_leaves = [np.float32(rates[self.part_of(_names(path))]) for path, _ in leaves]
        return jax.tree_util.tree_unflatten(structure, of_leaves)

    def part_of(self, path: Sequence[str]) -> str:
        """The block that a parameter belongs to, or ``stem`` or ``head``.

        Args:
            path: names on the way to the parameter.
        """
        whole = f"/{'/'.join(path)}/"
        for name in self.blocks:
            if f"/{name}/" in whole:
                return name
        return STEM if any(f"/{name}/" in whole for name in self._stem) else HEAD

    def judge(self, before: Any, after: Any, *, finite: bool = True) -> AutoLROutcome:
        """What becomes of a trial; rates for the next one, or for the next epoch, are in `rates` then.

        Args:
            before: parameters before the trial.
            after: after it.
            finite: whether all its losses were finite.

        Returns:
            ``accepted`` and more, see `AutoLROutcome`. Of a trial that is not accepted nothing may stay.

        Raises:
            FloatingPointError: the last trial allowed diverged.
            ValueError: the parameters are not those that the tuner was made for.
        """
        variations = weight_variation(
            self._by_block(before), self._by_block(after), blocks=self.blocks, include=self._include
        )
        self.state, outcome = jax.device_get(
            update(self._config, self.state, variations.astype(np.float32), finite=finite)
        )
        if outcome.diverged:
            self.head_learning_rate *= _DIVERGED_FACTOR
        if outcome.stop:
            raise FloatingPointError("every trial of the epoch diverged; start with lower learning rates")
        return outcome

    def _by_block(self, params: Any) -> dict[str, dict[str, Any]]:
        """``{block: tree}`` of dictionaries whose last names are those that the layers give."""
        trees: dict[str, dict[str, Any]] = {name: {} for name in self.blocks}
        for path, leaf in _leaves(params):
            part = self.part_of(path)
            if part not in trees:
                continue
            tree = trees[part]
            for name in path[:-1]:
                tree = tree.setdefault(name, {})
            tree[path[-1]] = leaf
        return trees


def _leaves(params: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Paths and arrays of a pytree; what is no array, as functions within a module, is left out."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return [(_names(path), leaf) for path, leaf in leaves if hasattr(leaf, "dtype")]


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    """Names on the way to a leaf: Haiku joins some of them by slashes, Flax NNX puts ``value`` behind them."""
    joined = "/".join(jax.tree_util.keystr((entry,), simple=True) for entry in path)
    names = tuple(name for name in joined.split("/") if name not in ("", "~"))
    return names[:-1] if len(names) > 1 and names[-1] == "value" else names
