"""Decisions of SpotTune: Gumbel-softmax, draws, usage of blocks and its penalties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from finetune_jax.algorithms import spottune


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def soft_gradient(scores, temperature, cotangent):
    """Closed form: the softmax Jacobian ``y_i (δ_ij − y_j) / τ``, transposed, one example at a time."""
    gradient = np.zeros_like(scores)
    for index in np.ndindex(scores.shape[:-1]):
        weights = np.exp((scores[index] - scores[index].max()) / temperature)
        soft = weights / weights.sum()
        gradient[index] = (np.diag(soft) - np.outer(soft, soft)) @ cotangent[index] / temperature
    return gradient


class TestGumbelSoftmax:
    def test_forward_is_the_one_hot_of_the_largest_sum(self):
        noise, logits = normal(0, 6, 4, 3), normal(1, 6, 4, 3)
        sample = np.asarray(spottune.gumbel_softmax(noise, logits))
        assert sample.dtype == np.float32
        for index in np.ndindex(6, 4):
            total = noise[index] + logits[index]
            np.testing.assert_array_equal(sample[index], total == total.max())

    @pytest.mark.parametrize("temperature", [0.3, 5.0])
    def test_backward_is_the_softmax_at_the_temperature(self, temperature):
        noise, logits, cotangent = (normal(seed, 5, 3, 2, dtype=np.float64) for seed in range(3))

        def weighed(noise, logits):
            return jnp.vdot(cotangent, spottune.gumbel_softmax(noise, logits, temperature))

        with jax.enable_x64(True):
            gradients = jax.jit(jax.grad(weighed, (0, 1)))(noise, logits)
        expected = soft_gradient(noise + logits, temperature, cotangent)
        for gradient in gradients:
            assert gradient.dtype == np.float64
            np.testing.assert_allclose(gradient, expected, rtol=1e-9)

    @pytest.mark.parametrize("temperature", [0.01, 5.0])
    @pytest.mark.parametrize("large", [1e4, 3e38, np.inf])
    def test_extreme_logits_keep_value_and_gradient_finite(self, large, temperature):
        logits = np.array(
            [[large, -large], [-large, large], [0, large], [-large, 0], [large, large], [-large, -large]],
            np.float32,
        )

        def first(logits):
            sample = spottune.gumbel_softmax(jnp.zeros_like(logits), logits, temperature)
            return sample[:, 1].sum(), sample

        gradient, sample = jax.grad(first, has_aux=True)(logits)
        np.testing.assert_array_equal(sample[:, 1], [0, 1, 1, 1, 0, 0])
        expected = np.zeros_like(logits)
        expected[4:] = [-0.25 / temperature, 0.25 / temperature]  # undecided: y (1 − y) / τ
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)

    def test_a_temperature_that_merges_close_logits_does_not_change_the_choice(self):
        # Neighbours in float32; divided by 3, about half of the pairs are equal.
        low = np.linspace(1, 2, 500, endpoint=False, dtype=np.float32)
        logits = np.stack([low, np.nextafter(low, np.float32(2))], 1)
        sample = spottune.gumbel_softmax(np.zeros_like(logits), logits, 3.0)
        np.testing.assert_array_equal(sample, np.tile([0, 1], (500, 1)))

    @pytest.mark.parametrize("temperature", [0, -1.0, np.nan, np.float32(0)])
    def test_a_temperature_that_is_not_positive_is_refused(self, temperature):
        with pytest.raises(ValueError, match="temperature"):
            spottune.gumbel_softmax(np.zeros(2), np.zeros(2), temperature)

    def test_noise_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"\(3, 2\).*\(2,\)"):
            spottune.gumbel_softmax(np.zeros((3, 2)), np.zeros(2))

    def test_the_temperature_may_be_traced(self):
        noise, logits = normal(0, 6, 2), normal(1, 6, 2)

        def gradient(temperature):
            return jax.grad(lambda x: spottune.gumbel_softmax(noise, x, temperature)[:, 1].sum())(logits)

        np.testing.assert_allclose(jax.jit(gradient)(0.7), gradient(0.7), rtol=1e-5)


class TestDecisions:
    def test_frequencies_are_the_softmax_of_the_logits(self):
        logits = jnp.asarray([[0.0, 0.0], [1.0, -0.5], [-3.0, 0.2], [0.0, 2.0]])
        samples = 20_000
        decisions = spottune.sample_decisions(
            jax.random.key(0), jnp.broadcast_to(logits, (samples, *logits.shape))
        )
        assert decisions.shape == (samples, 4)
        assert set(np.unique(decisions)) == {0.0, 1.0}
        share = np.asarray(decisions, np.float64).mean(0)
        expected = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
        np.testing.assert_array_less(abs(share - expected), 4 * np.sqrt(expected * (1 - expected) / samples))

    def test_a_key_fixes_the_policy_and_another_changes_it(self):
        logits = normal(0, 6, 4, 2)
        one, again, other = (spottune.sample_decisions(jax.random.key(seed), logits) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()

    def test_more_of_logit_one_means_more_fine_tuning(self):
        logits = jnp.asarray(normal(0, 6, 4, 2))
        gradient = jax.grad(lambda x: spottune.sample_decisions(jax.random.key(0), x).sum())(logits)
        assert (gradient[..., 1] > 0).all()
        np.testing.assert_allclose(gradient[..., 0], -gradient[..., 1], rtol=1e-5)

    def test_the_temperature_changes_the_gradient_and_not_the_draw(self):
        logits = jnp.asarray(normal(0, 6, 4, 2))

        def draw(logits, temperature):
            decisions = spottune.sample_decisions(jax.random.key(0), logits, temperature)
            return decisions.sum(), decisions

        (cold, cold_draw), (warm, warm_draw) = (
            jax.grad(draw, has_aux=True)(logits, temperature) for temperature in (0.5, 5.0)
        )
        np.testing.assert_array_equal(cold_draw, warm_draw)
        assert not np.allclose(cold, warm)

    def test_examples_with_their_own_keys_decide_independently_of_the_batch(self):
        keys, logits = jax.random.split(jax.random.key(0), 6), jnp.asarray(normal(0, 6, 4, 2))
        together = jax.vmap(spottune.sample_decisions)(keys, logits)
        np.testing.assert_array_equal(together[4], spottune.sample_decisions(keys[4], logits[4]))

    def test_likely_decisions_are_those_without_noise(self):
        logits = jnp.asarray([[[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]])
        np.testing.assert_array_equal(spottune.likely_decisions(logits), [[1, 0, 0]])
        np.testing.assert_array_equal(
            spottune.likely_decisions(logits), spottune.gumbel_softmax(0 * logits, logits)[..., 1]
        )

    def test_policy_outputs_pair_up_by_block(self):
        flat = jnp.arange(12.0).reshape(2, 6)
        logits = spottune.policy_logits(flat)
        for image, block, index in np.ndindex(2, 3, 2):
            assert logits[image, block, index] == flat[image, 2 * block + index]
        with pytest.raises(ValueError, match="5"):
            spottune.policy_logits(jnp.zeros((2, 5)))

    @pytest.mark.parametrize("shape", [(4, 3), (2,)])
    def test_logits_without_two_choices_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"\[\.\.\., L, 2\]"):
            spottune.sample_decisions(jax.random.key(0), jnp.zeros(shape))
        with pytest.raises(ValueError, match=r"\[\.\.\., L, 2\]"):
            spottune.likely_decisions(jnp.zeros(shape))


class TestGlobalPolicy:
    def test_usage_is_the_share_of_images(self):
        decisions = jnp.asarray([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
        np.testing.assert_allclose(spottune.usage(decisions), [1, 0.25, 0.5])
        np.testing.assert_allclose(spottune.usage(decisions.astype(bool)), [1, 0.25, 0.5])
        with pytest.raises(ValueError, match=r"\(3,\)"):
            spottune.usage(jnp.zeros(3))

    def test_the_budget_is_a_parabola_around_k(self):
        usage = jnp.asarray([0.5, 0.25, 1.0])
        np.testing.assert_allclose(spottune.budget_loss(usage, 3), 1.25**2)
        assert spottune.budget_loss(usage, 1.75) == 0
        np.testing.assert_allclose(spottune.budget_loss([0.5, 0.25, 1.0], k=3), 1.25**2)
        np.testing.assert_allclose(jax.grad(spottune.budget_loss)(usage, 3), [-2.5] * 3)

    @given(st_numpy.arrays(np.float32, 5, elements=st.floats(0, 1, width=32)))
    def test_entropy_agrees_with_a_loop(self, usage):
        expected = sum(-v * np.log(v) for v in usage.astype(np.float64) if v > 1e-30)
        np.testing.assert_allclose(spottune.entropy_loss(usage), expected, rtol=1e-5, atol=1e-6)
        assert np.isfinite(jax.grad(spottune.entropy_loss)(usage)).all()

    def test_entropy_is_zero_with_a_finite_gradient_at_both_ends(self):
        usage = jnp.asarray([0.0, 1.0, 0.0])
        assert spottune.entropy_loss(usage) == 0
        np.testing.assert_allclose(jax.grad(spottune.entropy_loss)(usage), [0, -1, 0])

    def test_entropy_gradient_is_minus_log_minus_one_between(self):
        usage = jnp.asarray([0.01, 0.3, 0.9])
        np.testing.assert_allclose(jax.grad(spottune.entropy_loss)(usage), -np.log(usage) - 1, rtol=1e-5)

    def test_losses_keep_float64(self):
        with jax.enable_x64(True):
            usage = jnp.asarray([0.1, 0.7], jnp.float64)
            assert spottune.entropy_loss(usage).dtype == spottune.budget_loss(usage, 1).dtype == np.float64

    def test_the_budget_pushes_the_policy_through_the_decisions(self):
        logits = jnp.asarray(normal(0, 6, 4, 2))

        def loss(logits):
            decisions = spottune.sample_decisions(jax.random.key(0), logits)
            return spottune.budget_loss(spottune.usage(decisions), 0)

        gradient = jax.grad(loss)(logits)
        assert (gradient[..., 1] > 0).all()  # descent lowers every logit of fine-tuning


def test_usage_without_names_is_refused_with_the_way_to_them():
    with pytest.raises(ValueError, match=r"usage must name its blocks, as dict\(zip\("):
        spottune.most_used(jnp.array([0.1, 0.9]), 1)
