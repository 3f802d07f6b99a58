"""Tables of Ro and Choi, "AutoLR" (AAAI 2021), and of its supplement (``supplement-N``)."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.config.recipes import RECIPES
from finetune_jax.reports.published import Row, Table

_RECALLS = ("test_recall_at_1", "test_recall_at_2", "test_recall_at_4", "test_recall_at_8")
_SOP = ("test_recall_at_1", "test_recall_at_10", "test_recall_at_100", "test_recall_at_1000")
_INSHOP = ("test_recall_at_1", "test_recall_at_10", "test_recall_at_20", "test_recall_at_30")
_METRICS = {"CUB-200": _RECALLS, "Cars-196": _RECALLS, "SOP": _SOP, "Inshop": _INSHOP}

_RETRIEVAL: Mapping[str, Any] = {
    **RECIPES["autolr"],
    "protocol": "retrieval",
    "select_on": "last",
    "validation_fraction": 0.0,
}
_CLASSIFICATION = {**_RETRIEVAL, "protocol": "classification", "epochs": 40}

_FIRST_THREE = {"rate_factors": ("block_01=0.1", "block_02=0.1", "block_03=0.1")}
_TWO_HIGHEST = {"rate_factors": ("block_13=10", "block_14=10")}


def _step(drop_epoch: int, factor: float) -> dict[str, Any]:
    return {"schedule": "step", "drop_epochs": (drop_epoch,), "drop_factor": factor}


def _cyclic(cycles: int) -> dict[str, Any]:
    return {"schedule": "cyclic", "cycles": cycles, "lowest_factor": 0.1}


def _sgdr(resets: int) -> dict[str, Any]:
    return {"schedule": "sgdr", "cycles": resets + 1, "lowest_factor": 0.1}


def _rows(
    names_and_settings: Sequence[tuple[str, Mapping[str, Any] | None]],
    numbers: Mapping[str, Sequence[tuple[float | None, ...] | None]],
) -> tuple[Row, ...]:
    rows = []
    for index, (name, settings) in enumerate(names_and_settings):
        printed = {data: values[index] for data, values in numbers.items()}
        rows.append(Row(name, settings, {data: v for data, v in printed.items() if v is not None}))
    return tuple(rows)


_SUPPLEMENT_4_METHODS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("Step-decay, 30, 0.1", _step(30, 0.1)),
    ("Step-decay, 30, 0.2", _step(30, 0.2)),
    ("Step-decay, 30, 0.5", _step(30, 0.5)),
    ("Step-decay, 40, 0.1", _step(40, 0.1)),
    ("Step-decay, 40, 0.2", _step(40, 0.2)),
    ("Step-decay, 40, 0.5", _step(40, 0.5)),
    *((f"Cyclic, {cycles} cycles", _cyclic(cycles)) for cycles in (1, 3, 5, 7, 9, 15)),
    *((f"SGDR, {resets} resets", _sgdr(resets)) for resets in (0, 2, 4, 6, 8, 14)),
)
_FROM_1E3 = (
    (67.00, 78.49, 86.85, 90.26),
    (67.39, 79.59, 87.51, 92.35),
    (68.26, 79.84, 87.54, 92.72),
    (67.91, 79.30, 87.36, 92.39),
    (67.86, 79.20, 87.20, 92.42),
    (68.75, 79.74, 87.96, 92.76),
    (67.66, 78.38, 86.44, 91.66),
    (67.12, 78.09, 86.31, 92.13),
    (67.06, 78.35, 86.63, 92.05),
    (67.33, 78.83, 86.65, 91.91),
    (67.14, 78.69, 86.69, 91.97),
    (67.55, 78.83, 86.63, 92.02),
    (67.15, 78.75, 86.93, 92.38),
    (66.61, 78.59, 86.88, 92.34),
    (66.62, 78.53, 86.99, 92.33),
    (66.54, 78.63, 86.88, 92.26),
    (67.29, 78.36, 86.31, 91.85),
    (67.37, 78.93, 86.63, 92.45),
)
_FROM_1E2 = (
    (66.95, 78.04, 86.41, 91.63),
    (67.10, 77.92, 86.06, 91.61),
    (66.63, 77.25, 85.48, 91.31),
    (67.17, 78.19, 86.19, 91.81),
    (67.35, 78.14, 86.04, 91.64),
    (66.64, 77.30, 85.63, 91.73),
    (66.73, 77.70, 85.79, 91.61),
    (67.84, 78.60, 86.29, 91.73),
    (67.54, 78.70, 86.73, 91.98),
    (68.55, 79.17, 86.70, 91.76),
    (67.51, 78.22, 86.01, 91.46),
    (67.79, 79.25, 86.85, 91.83),
    (66.42, 77.41, 86.44, 92.20),
    (67.78, 78.53, 86.19, 91.61),
    (67.81, 79.15, 87.04, 92.47),
    (67.79, 78.73, 86.75, 92.29),
    (68.18, 79.34, 86.92, 92.27),
    (68.16, 78.98, 86.50, 91.91),
)

TABLES: Mapping[str, Table] = {
    "1": Table(
        "Preliminary experiments: pruning, and rates adjusted by hand",
        "resnet50",
        _RETRIEVAL,
        {"CUB-200": _RECALLS},
        _rows(
            [
                ("Original", {}),
                ("Pruning 16", {"prune_depth": 1}),
                ("Pruning 15, 16", {"prune_depth": 2}),
                ("Pruning 14, 15, 16", {"prune_depth": 3}),
                ("Pruning 15, 16, rates of layers 1-3 / 10", {"prune_depth": 2, **_FIRST_THREE}),
                ("Pruning 15, 16, rates of layers 13, 14 x 10", {"prune_depth": 2, **_TWO_HIGHEST}),
                ("Pruning 15, 16, all rates by hand", None),
            ],
            {
                "CUB-200": (
                    (63.49, 75.03, 84.00, 90.58),
                    (66.95, 77.63, 86.39, 92.00),
                    (67.00, 78.49, 86.85, 92.07),
                    (51.00, 64.16, 75.44, 85.94),
                    (67.15, 78.61, 86.83, 92.08),
                    (67.29, 79.15, 87.36, 92.66),
                    (68.33, 79.88, 87.69, 92.71),
                )
            },
        ),
        "the paper does not give the rates of its last row",
    ),
    "2": Table(
        "Ablation: a single rate, pruning, AutoLR",
        "resnet50",
        _RETRIEVAL,
        _METRICS,
        _rows(
            [
                ("(1) SingleLR", {}),
                ("(2) Pruning only", {"prune_depth": 2}),
                ("(3) AutoLR", {"prune_depth": 2, "method": "autolr"}),
            ],
            {
                "CUB-200": (
                    (63.88, 75.14, 83.86, 90.26),
                    (67.00, 78.49, 86.85, 92.07),
                    (70.10, 80.62, 88.08, 92.98),
                ),
                "Cars-196": (
                    (85.89, 91.58, 95.12, 97.45),
                    (87.85, 93.11, 96.06, 98.02),
                    (89.02, 94.23, 96.72, 98.14),
                ),
                "SOP": (
                    (80.02, 91.21, 96.20, 98.64),
                    (83.31, 92.90, 96.68, 98.62),
                    (84.24, 93.47, 97.15, 98.92),
                ),
                "Inshop": (
                    (87.64, 97.12, 98.04, 98.40),
                    (88.62, 97.16, 97.95, 98.40),
                    (91.72, 98.04, 98.66, 98.93),
                ),
            },
        ),
    ),
    "3": Table(
        "Pruning of Inception-V3",
        "inception_v3",
        _RETRIEVAL,
        {"CUB-200": _RECALLS},
        _rows(
            [
                ("Original", {}),
                ("Pruning 13", {"prune_depth": 1}),
                ("Pruning 12, 13", {"prune_depth": 2}),
                ("Pruning 11, 12, 13", {"prune_depth": 3}),
            ],
            {
                "CUB-200": (
                    (54.12, 66.44, 76.54, 85.38),
                    (60.77, 71.94, 81.68, 88.93),
                    (63.67, 74.71, 83.78, 90.60),
                    (60.72, 72.84, 82.85, 89.74),
                )
            },
        ),
    ),
    "4": Table(
        "Comparison with other methods of image retrieval",
        "resnet50",
        _RETRIEVAL,
        _METRICS,
        _rows(
            [
                ("A-BIER (Inception-v1)", None),
                ("DREML (Inception-v3)", None),
                ("ABE-8 (Inception-v1)", None),
                ("NormSoft (ResNet-50)", None),
                ("Margin (ResNet-50)", None),
                ("MS (Inception-v1)", None),
                ("DGCRL (ResNet-50)", None),
                ("Proxy-Anchor (ResNet-50)", None),
                ("Pruning only", {"prune_depth": 2}),
                ("AutoLR", {"prune_depth": 2, "method": "autolr"}),
            ],
            {
                "CUB-200": (
                    (57.5, 68.7, 78.3, 86.2),
                    (58.9, 69.6, 78.4, 85.6),
                    (60.6, 71.5, 79.8, 87.4),
                    (61.3, 73.9, 83.5, 90.0),
                    (63.6, 74.4, 83.1, 90.0),
                    (65.7, 77.0, 86.4, 91.2),
                    (67.9, 79.1, 86.2, 91.8),
                    (69.7, 80.0, 87.0, 92.4),
                    (67.0, 78.5, 86.9, 92.1),
                    (70.1, 80.6, 88.1, 93.0),
                ),
                "Cars-196": (
                    (82.0, 89.0, 93.2, 96.1),
                    None,
                    (85.2, 90.5, 93.9, 96.1),
                    (84.2, 90.4, 94.4, 96.9),
                    (79.6, 86.5, 91.9, 95.1),
                    (78.2, 90.5, 96.0, 98.7),
                    (75.9, 83.9, 89.7, 94.0),
                    (87.7, 92.9, 95.8, 97.9),
                    (87.9, 93.1, 96.1, 98.0),
                    (89.0, 94.0, 96.9, 98.4),
                ),
                "SOP": (
                    (74.2, 86.9, 94.0, 97.8),
                    None,
                    (76.3, 88.4, 94.8, 98.2),
                    (79.5, 91.5, 96.7, None),
                    (72.7, 86.2, 93.8, 98.0),
                    (78.2, 90.5, 96.0, 98.7),
                    None,
                    None,
                    (83.3, 92.9, 96.7, 98.6),
                    (84.2, 93.5, 97.2, 98.9),
                ),
                "Inshop": (
                    (83.1, 95.1, 96.9, 97.5),
                    (78.4, 93.7, 95.8, 96.7),
                    (87.3, 96.7, 97.9, 98.2),
                    (89.4, 97.8, 98.7, 99.0),
                    None,
                    (89.7, 97.9, 98.5, 98.8),
                    None,
                    None,
                    (88.6, 97.2, 98.0, 98.4),
                    (91.7, 98.0, 98.7, 98.9),
                ),
            },
        ),
        "the other papers' numbers are only printed; the Cars-196 and SOP numbers of MS are the same in the paper",
    ),
    "5": Table(
        "Learning rate schedules on the pruned network",
        "resnet50",
        {**_RETRIEVAL, "prune_depth": 2, "learning_rate": 1e-2},
        {"CUB-200": _RECALLS[:3]},
        _rows(
            [
                ("Step-decay, 40, 0.1", _step(40, 0.1)),
                ("Step-decay, 40, 0.2", _step(40, 0.2)),
                ("Cyclic, 5 cycles", _cyclic(5)),
                ("Cyclic, 7 cycles", _cyclic(7)),
                ("SGDR, 8 resets", _sgdr(8)),
                ("SGDR, 14 resets", _sgdr(14)),
                ("AutoLR", {"method": "autolr", "learning_rate": 1e-3}),
            ],
            {
                "CUB-200": (
                    (67.17, 78.19, 86.19),
                    (67.35, 78.14, 86.04),
                    (67.54, 78.70, 86.73),
                    (68.55, 79.17, 86.70),
                    (68.18, 79.34, 86.34),
                    (68.16, 78.98, 86.50),
                    (70.10, 80.62, 88.08),
                )
            },
        ),
        "the supplement prints 86.92 where this table has 86.34",
    ),
    "supplement-2": Table(
        "Proxy-Anchor loss",
        "resnet50",
        {**_RETRIEVAL, "loss": "proxy_anchor"},
        {"CUB-200": _RECALLS, "Cars-196": _RECALLS},
        _rows(
            [
                (
                    "Proxy-Anchor + AdamW (official version)",
                    {
                        "optimizer": "adamw",
                        "learning_rate": 1e-4,
                        "head_learning_rate": 1e-4,
                        "weight_decay": 1e-4,
                    },
                ),
                ("Proxy-Anchor + SGD (modified version)", {}),
                ("Proxy-Anchor + SGD + Pruning 15,16", {"prune_depth": 2}),
                ("Proxy-Anchor + SGD + Pruning 15,16 + AutoLR", {"prune_depth": 2, "method": "autolr"}),
            ],
            {
                "CUB-200": (
                    (69.7, 80.0, 87.0, 92.4),
                    (61.41, 72.81, 81.90, 88.32),
                    (72.57, 81.97, 88.76, 93.64),
                    (73.46, 82.48, 89.30, 93.52),
                ),
                "Cars-196": (
                    (87.7, 92.9, 95.8, 97.9),
                    (73.09, 82.00, 87.65, 92.29),
                    (86.73, 91.74, 94.84, 96.80),
                    (88.55, 93.06, 96.00, 97.49),
                ),
            },
        ),
    ),
    "supplement-3": Table(
        "Fine-grained classification",
        "resnet50",
        _CLASSIFICATION,
        dict.fromkeys(("FGVC-CUB", "FGVC-Cars", "FGVC-Aircraft"), ("test_accuracy",)),
        _rows(
            [
                ("None pruned", {}),
                ("Pruning 16", {"prune_depth": 1}),
                ("Pruning 15,16", {"prune_depth": 2}),
                ("None pruned + AutoLR", {"method": "autolr"}),
                ("Pruning 16 + AutoLR", {"method": "autolr", "prune_depth": 1}),
                ("Pruning 15,16 + AutoLR", {"method": "autolr", "prune_depth": 2}),
            ],
            {
                "FGVC-CUB": ((78.53,), (79.13,), (78.74,), (79.62,), (80.34,), (79.93,)),
                "FGVC-Cars": ((84.65,), (85.40,), (85.96,), (87.89,), (88.12,), (88.30,)),
                "FGVC-Aircraft": ((77.83,), (77.77,), (77.95,), (82.18,), (81.28,), (82.00,)),
            },
        ),
    ),
    "supplement-4": Table(
        "All learning rate schedules on the pruned network",
        "resnet50",
        {**_RETRIEVAL, "prune_depth": 2},
        {"CUB-200": _RECALLS},
        _rows(
            [
                *((f"{name}, from 1e-3", settings) for name, settings in _SUPPLEMENT_4_METHODS),
                *(
                    (f"{name}, from 1e-2", {**settings, "learning_rate": 1e-2})
                    for name, settings in _SUPPLEMENT_4_METHODS
                ),
                ("AutoLR", {"method": "autolr"}),
            ],
            {"CUB-200": (*_FROM_1E3, *_FROM_1E2, (70.10, 80.62, 88.08, 92.98))},
        ),
    ),
}

GAMMA_TABLE: Mapping[str, tuple[float, ...]] = {
    "rate of the first run": (1e-3,) * 14,
    "rate of the second run": tuple(
        round(1e-3 * rate, 8)
        for rate in (0.16, 0.29, 0.33, 0.76, 0.80, 0.78, 1.05, 2.06, 1.91, 3.05, 3.29, 2.78, 1.73, 4.33)
    ),
    "norm, first run": (
        66.04, 56.63, 53.57, 87.88, 101.17, 110.24, 87.22, 165.47, 213.56, 140.41, 136.67, 169.35, 285.15, 418.59,
    ),
    "norm, second run": (
        62.41, 51.25, 50.56, 80.15, 86.36, 96.92, 77.90, 142.70, 161.59, 107.43, 107.87, 127.23, 196.16, 333.57,
    ),
    "gamma": (0.95, 0.91, 0.94, 0.91, 0.85, 0.88, 0.89, 0.86, 0.76, 0.77, 0.79, 0.75, 0.69, 0.80),
}  # fmt: skip
"""Table 1 of the supplement: ``‖∇L_acc‖`` of each block of the pruned ResNet-50 in two runs of one epoch on CUB-200."""
