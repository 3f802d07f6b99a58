"""Makes the files under `torch_files/` with torch 2.13: `python tests/golden/make_torch_files.py`.

Needs torch and NumPy; the tests that read the files need no torch. Each `NAME.npz` holds the arrays to be
found in `NAME.pth` (zip container) and `NAME_legacy.pth` (container before torch 1.6). The arrays come from
`Tensor.numpy()`, bfloat16 from `Tensor.float().numpy()`. The files without an `.npz` must be refused.
Storage keys of the legacy files are memory addresses: those files differ from run to run, the arrays do not.
"""

import argparse
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "torch_files"


def save(name: str, content: object, state: dict[str, torch.Tensor], protocol: int = 2) -> None:
    """Writes `content` in both containers and `state` as the arrays to be found in it."""
    torch.save(content, FOLDER / f"{name}.pth", pickle_protocol=protocol)
    torch.save(
        content,
        FOLDER / f"{name}_legacy.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=False,
    )
    arrays = {
        key: (t.float() if t.dtype == torch.bfloat16 else t).detach().numpy() for key, t in state.items()
    }
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def dtypes() -> dict[str, torch.Tensor]:
    """One small tensor of every dtype; the values include signs, extremes, infinities and NaN."""
    special = [0.0, -0.0, 1.5, -3.25, float("inf"), float("-inf"), float("nan")]
    state = {
        f"float.{str(dtype).removeprefix('torch.')}": torch.tensor(
            [*special, torch.finfo(dtype).max], dtype=dtype
        )
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32):
        limits = torch.iinfo(dtype)
        state[f"int.{str(dtype).removeprefix('torch.')}"] = torch.tensor(
            [limits.min, 7, limits.max], dtype=dtype
        )
    state["bool"] = torch.tensor([[True, False], [False, False]])
    state["complex64"] = torch.tensor([1 + 2j, -3.5j], dtype=torch.complex64)
    state["complex128"] = torch.tensor([1 + 2j, -3.5j], dtype=torch.complex128)
    return state


def layouts() -> dict[str, torch.Tensor]:
    """Views of every sort: strides, offsets, shared storages, expanded, scalar and empty tensors."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    narrow = torch.arange(24, dtype=torch.float32).to(torch.bfloat16).reshape(4, 6)
    images = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).reshape(2, 3, 2, 2)
    return {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "stepped": base[::2, 1:, ::3],
        "last_row": base[2, 3],
        "last_element": base[2, 3, 4],
        "bfloat16_stepped": narrow[1:, ::2].T,
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
        "scalar": torch.tensor(41),
        "bfloat16_scalar": torch.tensor(0.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0),
        "empty_matrix": torch.zeros(3, 0, 2, dtype=torch.int64),
        "empty_tail": base[3:],
        "parameter": torch.nn.Parameter(torch.tensor([1.0, -1.0])),
    }


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        OrderedDict(
            conv=torch.nn.Conv2d(3, 4, 3, bias=False), bn=torch.nn.BatchNorm2d(4), fc=torch.nn.Linear(4, 2)
        )
    )


def training_checkpoint() -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """What a training script leaves behind: a state with `module.` on its names, optimiser and results."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [40, 60])
    model.fc(model.bn(model.conv(torch.randn(2, 3, 3, 3))).flatten(1)).sum().backward()
    optimizer.step()
    schedule.step()
    state = model.state_dict()
    checkpoint = {
        "epoch": 3,
        "arch": "tiny",
        "best_acc1": torch.tensor(71.5),
        "best_acc5": np.float64(93.25),
        "seen": np.int64(4000),
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items()),
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "device": torch.device("cpu"),
        "shape": torch.Size([3, 224, 224]),
        "args": argparse.Namespace(lr=0.1, milestones=[40, 60]),
    }
    return checkpoint, state


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    save("dtypes", dtypes(), dtypes())
    save("layouts", layouts(), layouts())
    save("layouts_protocol4", layouts(), layouts(), protocol=4)
    save("network_protocol5", network().state_dict(), network().state_dict(), protocol=5)
    save("checkpoint", *training_checkpoint())
    torch.save(torch.nn.Linear(2, 1), FOLDER / "whole_module.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but its files are still about
        torch.jit.save(torch.jit.script(torch.nn.Identity()), FOLDER / "torchscript.pt")


if __name__ == "__main__":
    main()
