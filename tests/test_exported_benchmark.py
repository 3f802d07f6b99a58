"""The benchmark of exported networks: it counts what it calls, and pads what it predicts."""

import numpy as np

from benchmarks import exported


def test_every_image_is_predicted_once_whatever_the_batch():
    sizes = []

    def predict(images):
        sizes.append(len(images))
        return np.eye(256)[images[:, 0, 0, 0]]

    images = np.arange(70, dtype=np.uint8).reshape(70, 1, 1, 1)
    np.testing.assert_array_equal(exported.predictions(predict, images), np.arange(70))
    assert sizes == [32, 32, 32]


def test_rates_are_of_images_and_not_of_calls():
    calls = {"a": 0}

    def predict(images):
        calls["a"] += len(images)
        return images

    found = exported.rates({"a": predict}, np.zeros((3, 2, 2, 3), np.uint8), rounds=1, seconds=0.05)
    assert set(found["a"]) == {1, 32}
    # The first call of each size compiles and is not counted.
    assert found["a"][1] * 0.05 + found["a"][32] * 0.05 <= calls["a"]
    assert found["a"][32] > found["a"][1]
