"""The embedded data set: 1,797 handwritten digits, 8 × 8 pixels.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits" (1998), as bundled with scikit-learn.
"""

import numpy as np

from finetune_jax.data.examples import Examples, Source, as_digests, digest_of, fingerprint_of_digests


def read() -> Source:
    """All digits as one split; grey levels 0 … 16 become RGB 0 … 255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.round(data.images * (255.0 / 16.0)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    digests = as_digests([digest_of(image.tobytes()) for image in images])
    train = Examples(
        labels=data.target.astype(np.int32),
        names=[f"digits[{index}]" for index in range(len(images))],
        read=images.__getitem__,
        fingerprint=fingerprint_of_digests(digests),
        digests=digests,
    )
    return Source("digits", tuple(str(digit) for digit in range(10)), {"train": train})
