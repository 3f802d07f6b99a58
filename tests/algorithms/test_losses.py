"""Losses against loops over examples, classes and proxies."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from finetune_jax.algorithms import losses


def loop_cross_entropy(logits, label, smoothing):
    """Distance to the smoothed target distribution, term by term."""
    classes = len(logits)
    total = math.fsum(math.exp(logit) for logit in logits)
    loss = 0.0
    for c, logit in enumerate(logits):
        target = smoothing / classes + (1 - smoothing) * (c == label)
        loss -= target * math.log(math.exp(logit) / total)
    return loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_of_every_example_agrees_with_a_loop_over_the_classes(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(scale=3, size=(6, 5)), rng.integers(5, size=6)
    expected = [
        loop_cross_entropy(row.tolist(), int(label), smoothing)
        for row, label in zip(logits, labels, strict=True)
    ]
    actual = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), label_smoothing=smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def loop_proxy_anchor(embeddings, labels, proxies, margin=0.1, alpha=32.0):
    """Eq. 4 of Kim et al. (CVPR 2020), proxy by proxy."""

    def cosine(a, b):
        return math.fsum(a * b) / math.sqrt(math.fsum(a * a) * math.fsum(b * b))

    with_positives, pull, push = 0, 0.0, 0.0
    for c, proxy in enumerate(proxies):
        similarities = [cosine(embedding, proxy) for embedding in embeddings]
        positive = [s for s, label in zip(similarities, labels, strict=True) if label == c]
        negative = [s for s, label in zip(similarities, labels, strict=True) if label != c]
        if positive:
            with_positives += 1
            pull += math.log(1 + math.fsum(math.exp(-alpha * (s - margin)) for s in positive))
        push += math.log(1 + math.fsum(math.exp(alpha * (s + margin)) for s in negative))
    return pull / with_positives + push / len(proxies)


proxy_anchor = jax.jit(losses.proxy_anchor, static_argnames=("margin", "alpha"))


def batch(seed=1, images=12, classes=7, features=5):
    rng = np.random.default_rng(seed)
    # Class 6 has no image in the batch, the others one to several.
    labels = rng.integers(classes - 1, size=images)
    scale = 10.0 ** rng.uniform(-3, 3, size=(images, 1))
    return scale * rng.normal(size=(images, features)), labels, 5 * rng.normal(size=(classes, features))


@pytest.mark.parametrize("settings", [{}, {"margin": 0.3, "alpha": 4.0}, {"margin": 0.0, "alpha": 100.0}])
def test_proxy_anchor_agrees_with_a_loop_over_the_proxies(settings):
    embeddings, labels, proxies = batch()
    expected = loop_proxy_anchor(embeddings, labels, proxies, **settings)
    actual = proxy_anchor(*(jnp.asarray(x) for x in (embeddings, labels, proxies)), **settings)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-5)
    with jax.enable_x64(True):
        precise = jax.jit(lambda *arrays: losses.proxy_anchor(*arrays, **settings))(
            *map(jnp.asarray, batch())
        )
        assert precise.dtype == jnp.float64
        np.testing.assert_allclose(precise, expected, rtol=1e-12)


def test_proxy_anchor_of_one_image_on_its_proxy_is_the_closed_form():
    # Similarity 1 to its own proxy, -1 to the other: log(1 + e^(-32·0.9)) + ½ log(1 + e^(32·(-0.9))).
    loss = proxy_anchor(jnp.asarray([[2.0, 0.0]]), jnp.asarray([0]), jnp.asarray([[5.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(loss, 1.5 * math.log1p(math.exp(-32 * 0.9)), rtol=1e-5)
    # With the image on the other side, both logarithms are 32 · 1.1 to within e^-35.
    loss = proxy_anchor(jnp.asarray([[-2.0, 0.0]]), jnp.asarray([0]), jnp.asarray([[5.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(loss, 1.5 * 32 * 1.1, rtol=1e-6)


def test_proxy_anchor_does_not_depend_on_lengths():
    embeddings, labels, proxies = (jnp.asarray(x) for x in batch())
    loss = proxy_anchor(embeddings, labels, proxies)
    np.testing.assert_allclose(proxy_anchor(1e-20 * embeddings, labels, 1e20 * proxies), loss, rtol=1e-5)


def test_proxy_anchor_and_its_gradient_stay_finite_at_extreme_scales():
    embeddings, labels, proxies = (jnp.asarray(x) for x in batch())
    steep = functools.partial(losses.proxy_anchor, alpha=1e4)
    value, gradients = jax.jit(jax.value_and_grad(steep, argnums=(0, 2)))(embeddings, labels, proxies)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    zero = jax.jit(jax.grad(losses.proxy_anchor))(jnp.zeros_like(embeddings), labels, proxies)
    assert np.isfinite(zero).all()


def test_proxy_anchor_has_the_gradient_of_its_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        embeddings, proxies = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(5, 3)))
        labels = jnp.asarray([0, 1, 1, 4])
        loss = jax.jit(lambda e, p: losses.proxy_anchor(e, labels, p, alpha=8.0))
        check_grads(loss, (embeddings, proxies), order=1, modes=("rev",), rtol=1e-6)


def test_a_step_against_the_gradient_brings_images_to_their_proxies():
    embeddings, labels, proxies = (jnp.asarray(x) for x in batch(3, images=6, classes=3))
    gradient = jax.jit(jax.grad(losses.proxy_anchor))
    start = float(proxy_anchor(embeddings, labels, proxies))
    embeddings = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)
    for _ in range(100):
        embeddings -= 0.02 * gradient(embeddings, labels, proxies)
    loss = float(proxy_anchor(embeddings, labels, proxies))
    assert loss < 0.5 * start


def test_shapes_that_do_not_fit_are_both_named():
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(5, 2\)"):
        losses.proxy_anchor(jnp.ones((4, 3)), jnp.zeros(4, int), jnp.ones((5, 2)))
    with pytest.raises(ValueError, match=r"\(3,\) for \(4, 3\)"):
        losses.proxy_anchor(jnp.ones((4, 3)), jnp.zeros(3, int), jnp.ones((5, 3)))
