"""Write channels.npz: a kernel as timm adapts it to other numbers of channels (timm 1.0, PyTorch).

python tests/golden/make_channel_goldens.py
"""

from pathlib import Path

import numpy as np


def main() -> None:
    """Make the file."""
    import torch
    from timm.models import adapt_input_conv

    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)
    adapted = {
        f"channels_{count}": adapt_input_conv(count, torch.from_numpy(kernel)).numpy()
        for count in (1, 2, 3, 4, 13)
    }
    np.savez_compressed(Path(__file__).with_name("channels.npz"), kernel=kernel, **adapted)


if __name__ == "__main__":
    main()
