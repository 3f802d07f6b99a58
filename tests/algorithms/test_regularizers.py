"""L2-SP against its definition, its gradient against the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.algorithms import regularizers

SHARED = ("stem", "block_01")


def parts(seed, classes, dtype=np.float64):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    return {
        "stem": {"conv": {"kernel": draw(3, 3, 1, 2)}, "norm": {"scale": draw(2), "bias": draw(2)}},
        "block_01": {"conv": {"kernel": draw(3, 3, 2, 2)}},
        "head": {"classifier": {"kernel": draw(2, classes), "bias": draw(classes)}},
    }


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("weights", [(0.1, 0.01), (0.0, 1.0), (2.0, 0.0)])
def test_value_and_gradient_are_the_closed_form(weights):
    lambda_shared, lambda_novel = weights
    params, reference = parts(0, 3), parts(1, 7)
    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(regularizers.l2_sp), static_argnums=2)(
            params, reference, SHARED, lambda_shared, lambda_novel
        )
    moved = {name: flat(params[name]) - flat(reference[name]) for name in SHARED}
    novel = flat(params["head"])
    expected = sum(lambda_shared / 2 * (part @ part) for part in moved.values()) + lambda_novel / 2 * (
        novel @ novel
    )
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert value.dtype == np.float64
    for name in SHARED:
        np.testing.assert_allclose(flat(gradient[name]), lambda_shared * moved[name], rtol=1e-12)
    np.testing.assert_allclose(flat(gradient["head"]), lambda_novel * novel, rtol=1e-12)


def test_norm_parameters_are_pulled_to_their_pretrained_values():
    params, reference = parts(0, 3), parts(0, 3)
    params["stem"]["norm"]["scale"] = reference["stem"]["norm"]["scale"] + np.array([2.0, 0.0])
    np.testing.assert_allclose(regularizers.l2_sp(params, reference, SHARED, 0.3, 0.0), 0.15 * 4, rtol=1e-6)


def test_the_pretrained_network_itself_pays_for_its_head_alone():
    params = parts(0, 3)
    assert regularizers.l2_sp(params, params, SHARED, 1.0, 0.0) == 0
    head = flat(params["head"])
    np.testing.assert_allclose(
        regularizers.l2_sp(params, params, SHARED, 1.0, 0.5), 0.25 * head @ head, rtol=1e-6
    )


def test_without_shared_parts_it_is_weight_decay():
    params = parts(0, 3)
    weights = flat(params)
    np.testing.assert_allclose(
        regularizers.l2_sp(params, {}, (), 9.0, 0.2), 0.1 * weights @ weights, rtol=1e-6
    )


def test_with_every_part_shared_nothing_is_novel():
    params, reference = parts(0, 3), parts(1, 3)
    moved = flat(params) - flat(reference)
    value = regularizers.l2_sp(params, reference, list(params), 0.2, 9.0)
    np.testing.assert_allclose(value, 0.1 * moved @ moved, rtol=1e-6)


def test_the_weights_may_differ_between_mapped_trials():
    params, reference = parts(0, 3, np.float32), parts(1, 3, np.float32)
    weights = jnp.asarray([0.1, 1.0]), jnp.asarray([0.01, 0.0])
    together = jax.vmap(lambda a, b: regularizers.l2_sp(params, reference, SHARED, a, b))(*weights)
    alone = [
        regularizers.l2_sp(params, reference, SHARED, *map(float, pair))
        for pair in zip(*weights, strict=True)
    ]
    assert together.dtype == alone[0].dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_single_precision_stays_single_where_double_is_enabled():
    params = parts(0, 3, np.float32)
    with jax.enable_x64(True):
        assert regularizers.l2_sp(params, params, SHARED, 0.1, 0.1).dtype == np.float32


def test_missing_parts_are_named_with_their_side():
    params, reference = parts(0, 3), parts(1, 3)
    with pytest.raises(ValueError, match=r"parameters lack.*\['block_02'\].*'stem'"):
        regularizers.l2_sp(params, reference, ("stem", "block_02"), 1.0, 1.0)
    del reference["stem"]
    with pytest.raises(ValueError, match=r"reference lack.*\['stem'\].*'head'"):
        regularizers.l2_sp(params, reference, SHARED, 1.0, 1.0)


def test_leaves_of_another_shape_are_named():
    params, reference = parts(0, 3), parts(1, 7)
    with pytest.raises(ValueError, match=r"head.*classifier.*kernel.* \(2, 3\) and \(2, 7\)") as raised:
        regularizers.l2_sp(params, reference, (*SHARED, "head"), 1.0, 1.0)
    assert "stem" not in str(raised.value)
    del reference["stem"]["norm"]["bias"]
    with pytest.raises(ValueError, match=r"stem.*norm.*bias.* \(2,\) and missing"):
        regularizers.l2_sp(params, reference, SHARED, 1.0, 1.0)
