"""Clipping against optax, timm's numbers and loops over units."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_jax.algorithms import clipping

SHAPES = {
    "stem": {"conv": {"kernel": (3, 3, 2, 4)}, "norm": {"scale": (4,), "bias": (4,)}},
    "block_01": {"pointwise": {"kernel": (1, 1, 4, 5)}, "depthwise": {"kernel": (3, 3, 1, 4)}},
    "head": {"classifier": {"kernel": (5, 3), "bias": (3,)}},
}


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def assert_trees_close(ours, theirs, **tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e3])
def test_the_global_norm_is_limited_and_the_direction_kept(limit):
    gradients = random_tree(0)
    clipped = jax.jit(clipping.by_global_norm)(gradients, jnp.float32(limit))
    before, after = vector(gradients), vector(clipped)
    expected = before * min(1.0, limit / np.sqrt((before**2).sum()))
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    theirs, _ = optax.clip_by_global_norm(limit).update(gradients, optax.EmptyState())
    assert_trees_close(clipped, theirs, rtol=1e-6)


def test_gradients_below_the_limit_are_left_as_they_are_bit_for_bit():
    gradients = random_tree(0)
    for a, b in zip(
        jax.tree.leaves(clipping.by_global_norm(gradients, 1e3)), jax.tree.leaves(gradients), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_norms_of_the_blocks_make_up_the_global_norm():
    gradients = random_tree(1)
    norms = clipping.block_norms(gradients)
    assert set(norms) == set(SHAPES)
    for name, norm in norms.items():
        np.testing.assert_allclose(norm, np.sqrt((vector(gradients[name]) ** 2).sum()), rtol=1e-6)
    total = np.sqrt(sum(float(norm) ** 2 for norm in norms.values()))
    np.testing.assert_allclose(clipping.global_norm(gradients), total, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_adaptive_clipping_is_optaxs_on_kernels_and_vectors(scale):
    """The second scale lets the smallest norm of weights decide."""
    gradients, params = random_tree(2), random_tree(3, scale)
    ours = jax.jit(lambda g, p: clipping.adaptive(g, p, 0.01))(gradients, params)
    theirs, _ = optax.adaptive_grad_clip(0.01).update(gradients, optax.EmptyState(), params)
    assert_trees_close(ours, theirs, rtol=1e-5)


def test_adaptive_clipping_looks_at_each_output_of_a_layer():
    rng = np.random.default_rng(4)
    weights, gradient = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=(3, 3, 2, 4))
    gradient[..., 1] *= 1e-3
    expected = gradient.copy()
    for unit in range(4):
        limit = 0.1 * np.sqrt((weights[..., unit] ** 2).sum())
        norm = np.sqrt((gradient[..., unit] ** 2).sum())
        expected[..., unit] *= min(1.0, limit / norm)

    def tree(array):
        return {"stem": {"conv": {"kernel": jnp.asarray(array, jnp.float32)}}}

    ours = clipping.adaptive(tree(gradient), tree(weights), 0.1)["stem"]["conv"]["kernel"]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    np.testing.assert_array_equal(ours[..., 1], gradient[..., 1].astype(np.float32))


def test_tokens_and_positions_are_one_unit():
    rng = np.random.default_rng(5)
    weights, gradient = rng.normal(size=(1, 7, 4)), rng.normal(size=(1, 7, 4))

    def tree(array):
        return {"stem": {"position_embedding": jnp.asarray(array, jnp.float32)}}

    ours = clipping.adaptive(tree(gradient), tree(weights), 0.01)["stem"]["position_embedding"]
    factor = 0.01 * np.sqrt((weights**2).sum()) / np.sqrt((gradient**2).sum())
    np.testing.assert_allclose(ours, gradient * factor, rtol=1e-5)


def test_the_classifier_can_be_left_out():
    gradients, params = random_tree(2), random_tree(3)
    ours = clipping.adaptive(gradients, params, 0.01, include=lambda path, leaf: "classifier" not in path)
    np.testing.assert_array_equal(
        ours["head"]["classifier"]["kernel"], gradients["head"]["classifier"]["kernel"]
    )
    assert not np.array_equal(ours["stem"]["norm"]["bias"], gradients["stem"]["norm"]["bias"])


def test_a_zero_gradient_stays_zero_and_finite():
    zero = jax.tree.map(jnp.zeros_like, random_tree(0))
    for clipped in (clipping.by_global_norm(zero, 1.0), clipping.adaptive(zero, zero, 0.01)):
        assert not vector(clipped).any()
