"""PyTorch's side of :mod:`benchmarks.train_step`, in this process or one of its own, and what both sides share."""

import contextlib
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np

CLASSES = 100
BLOCK_RATE, HEAD_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 1e-2, 0.9, 5e-4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# For PyTorch, what ``finetune_jax.devices.host_memory`` does for our side.
KEEPING_TUNABLES = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", "mmap_max=0", "trim_threshold=1000000000000", "arena_max=1")
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, its input, and how many steps make up a round.

    ``bfloat16`` is the compute type of our network and PyTorch's automatic mixed precision;
    ``steps_per_dispatch`` is ours alone.
    """

    network: str
    width: float
    image_size: int
    batch: int
    train_steps: int
    predict_steps: int
    bfloat16: bool = False
    steps_per_dispatch: int = 1

    def steps(self, task: str) -> int:
        return {"train": self.train_steps, "predict": self.predict_steps}[task]


class Side(Protocol):
    """One of the two programs that are compared."""

    def version(self) -> str:
        """Name and version of the library."""

    def matmul(self, size: int, bfloat16: bool = False) -> float:
        """Seconds of one product of two ``[size, size]`` matrices."""

    def prepare(self, case: Case) -> int:
        """Build the network of a case; its number of parameters."""

    def run(self, task: str) -> float:
        """Seconds of one round of the case prepared last."""


class Examples(NamedTuple):
    """Random pixels and labels: uint8 ``images [N, H, W, 3]``, int32 ``labels [N]``."""

    images: np.ndarray
    labels: np.ndarray


def random_examples(case: Case) -> Examples:
    rng = np.random.default_rng(0)
    count = case.batch * max(case.train_steps, case.predict_steps)
    images = rng.integers(256, size=(count, case.image_size, case.image_size, 3), dtype=np.uint8)
    return Examples(images, rng.integers(CLASSES, size=count).astype(np.int32))


_clock = time.perf_counter


def count_cpu_seconds() -> None:
    """From now on, :func:`seconds_of` says how long cores were used by this process."""
    global _clock
    _clock = time.process_time


def seconds_of(function: Callable[[], Any]) -> float:
    start = _clock()
    function()
    return _clock() - start


class TorchSide:
    """PyTorch, channels_last; eager, or by ``torch.compile``.

    Args:
        threads: of the CPU.
        device: ``cpu`` or ``cuda``; the images live there.
        compiled: whether pixels to loss are one compiled program.
    """

    def __init__(self, threads: int, device: str = "cpu", compiled: bool = False) -> None:
        import torch

        torch.set_num_threads(threads)
        if device == "cuda":
            torch.backends.cudnn.benchmark = True
            # As JAX does by default: the factors of float32 products are rounded to TF32.
            torch.set_float32_matmul_precision("high")
        self._device = torch.device(device)
        self._compiled = compiled

    def version(self) -> str:
        import torch

        return f"torch {torch.__version__}"

    def matmul(self, size: int, bfloat16: bool = False) -> float:
        import torch

        dtype = torch.bfloat16 if bfloat16 else torch.float32
        left, right = (torch.rand(size, size, dtype=dtype, device=self._device) for _ in range(2))

        def product() -> None:
            left @ right
            self._wait()

        return fastest(product)

    def prepare(self, case: Case) -> int:
        import torch

        module = _torch_network(case)
        self._module = module.to(device=self._device, memory_format=torch.channels_last)
        head = list(list(module.children())[-1].parameters())
        others = list(module.parameters())[: -len(head)]
        self._optimizer = torch.optim.SGD(
            [{"params": others, "lr": BLOCK_RATE}, {"params": head, "lr": HEAD_RATE}],
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=WEIGHT_DECAY,
            # One kernel for all weights on GPUs; left to PyTorch on CPU.
            fused=True if self._device.type == "cuda" else None,
        )
        self._case = case
        images, labels = map(torch.from_numpy, random_examples(case))
        self._images, self._labels = images.to(self._device), labels.long().to(self._device)
        self._scale = (1 / (255 * torch.tensor(STD))).to(self._device)
        self._offset = (torch.tensor(MEAN) / torch.tensor(STD)).to(self._device)
        self._loss = torch.compile(self._examples_loss) if self._compiled else self._examples_loss
        return sum(parameter.numel() for parameter in module.parameters())

    def run(self, task: str) -> float:
        return seconds_of({"train": self._train_round, "predict": self._predict_round}[task])

    def _train_round(self) -> None:
        import torch

        case = self._case
        self._module.train()
        loss_sum = torch.zeros((), device=self._device)
        correct = torch.zeros((), dtype=torch.long, device=self._device)
        for chosen in torch.randperm(case.batch * case.train_steps, device=self._device).split(case.batch):
            self._optimizer.zero_grad()
            loss, right = self._loss(self._images[chosen], self._labels[chosen])
            loss.backward()
            self._optimizer.step()
            loss_sum += case.batch * loss.detach()
            correct += right
        self._wait()

    def _examples_loss(self, images: Any, labels: Any) -> tuple[Any, Any]:
        import torch
        from torch.nn import functional

        mirrored = torch.rand(len(images), 1, 1, 1, device=self._device) < 0.5
        images = torch.where(mirrored, images.flip(2), images)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._case.bfloat16):
            logits = self._module(self._normalized(images))
        return functional.cross_entropy(logits.float(), labels), (logits.argmax(1) == labels).sum()

    def _predict_round(self) -> None:
        import torch

        case = self._case
        self._module.eval()
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=case.bfloat16),
        ):
            for chosen in torch.arange(case.batch * case.predict_steps).split(case.batch):
                self._module(self._normalized(self._images[chosen])).float().cpu().numpy()

    def _wait(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _normalized(self, images: Any) -> Any:
        # Seen as NCHW, contiguous NHWC is channels_last already.
        return (images.float() * self._scale - self._offset).permute(0, 3, 1, 2)


def _torch_network(case: Case) -> Any:
    from benchmarks import torch_resnet

    if case.network.startswith("resnet"):
        return torch_resnet.create(case.network, CLASSES, case.width)
    if case.network.startswith(("vit_", "convnext")):
        return _timm_network(case)
    try:
        import torchvision
    except ImportError:
        raise SystemExit(
            f"{case.network} in PyTorch is torchvision's; install it or leave --cases={case.network} out"
        ) from None
    # Ours have no dropout.
    return torchvision.models.get_model(case.network, num_classes=CLASSES, width_mult=case.width, dropout=0.0)


def _timm_network(case: Case) -> Any:
    try:
        import timm
    except ImportError:
        raise SystemExit(
            f"{case.network} in PyTorch is timm's; install it or leave --cases={case.network} out"
        ) from None
    if case.width != 1:
        raise SystemExit(f"{case.network} has one width in timm; leave --cases={case.network} out")
    return timm.create_model(case.network, num_classes=CLASSES)


def fastest(function: Callable[[], Any]) -> float:
    return min(seconds_of(function) for _ in range(10))


class TorchProcess:
    """:class:`TorchSide` in a process of another interpreter: a line of JSON in, a line of JSON out."""

    def __init__(
        self,
        python: str,
        threads: int,
        device: str = "cpu",
        compiled: bool = False,
        keeps_memory: bool = False,
        cpu_seconds: bool = False,
    ) -> None:
        self._python = python
        command = [python, "-m", "benchmarks.train_step", "--worker", "torch", "--threads", str(threads)]
        command += ["--device", device, *(["--compiled"] if compiled else [])]
        command += ["--cpu_seconds"] if cpu_seconds else []
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],
                env=os.environ | ({"GLIBC_TUNABLES": KEEPING_TUNABLES} if keeps_memory else {}),
            )
        except OSError as error:
            raise SystemExit(f"--torch={python} cannot be started ({error.strerror})") from None

    def version(self) -> str:
        return self._ask("version")

    def matmul(self, size: int, bfloat16: bool = False) -> float:
        return self._ask("matmul", size, bfloat16)

    def prepare(self, case: Case) -> int:
        return self._ask("prepare", dataclasses.asdict(case))

    def run(self, task: str) -> float:
        return self._ask("run", task)

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, *request: Any) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        # A process that has ended gives no answer either.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(
                f"--torch={self._python}: the PyTorch process ended with status {process.wait()}; "
                "give an interpreter that can import torch"
            )
        return json.loads(answer)


def serve(side: Side, requests: Iterable[str], answers: TextIO) -> None:
    """The other end of :class:`TorchProcess`."""
    for line in requests:
        match json.loads(line):
            case ["version"]:
                answer: Any = side.version()
            case ["matmul", size, bfloat16]:
                answer = side.matmul(size, bfloat16)
            case ["prepare", fields]:
                answer = side.prepare(Case(**fields))
            case ["run", task]:
                answer = side.run(task)
        print(json.dumps(answer), file=answers, flush=True)
