"""Tables of Guo et al., "SpotTune" (CVPR 2019)."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.algorithms import decathlon
from finetune_jax.config.recipes import RECIPES
from finetune_jax.reports.published import Row, Table

TABLE_2_METHODS: Mapping[str, Mapping[str, Any]] = {
    "feature extractor": {"method": "feature_extractor"},
    "standard": {"method": "standard"},
    "stochastic": {"method": "stochastic"},
    "last 3": {"method": "last_k", "k": 3},
    "last 2": {"method": "last_k", "k": 2},
    "last 1": {"method": "last_k", "k": 1},
    "random policy": {"method": "random_policy"},
    "ResNet-101": {"method": "standard", "network": "resnet101"},
    "L2-SP": {"method": "l2_sp", **RECIPES["l2_sp"]},
    "progressive network": {"method": "progressive"},
    "SpotTune, all tuned": {"method": "spottune_tuned"},
    "SpotTune, global": {"method": "spottune_global"},
    "SpotTune": {"method": "spottune"},
}
"""What sets the methods of Table 2 apart, in the printed order."""

_TABLE_2_NAMES = (
    "Feature Extractor",
    "Standard Fine-tuning",
    "Stochastic Fine-tuning",
    "Fine-tuning last-3",
    "Fine-tuning last-2",
    "Fine-tuning last-1",
    "Random Policy",
    "Fine-tuning ResNet-101",
    "L2-SP",
    "Progressive Neural Nets",
    "SpotTune (running fine-tuned blocks)",
    "SpotTune (Global-k)",
    "SpotTune",
)
_TABLE_2_DATA = ("CUBS", "Stanford Cars", "Flowers", "WikiArt", "Sketches")
_TABLE_2_NUMBERS = (
    (74.07, 70.81, 85.67, 61.60, 75.50),
    (81.86, 89.74, 93.67, 75.60, 79.58),
    (81.03, 88.94, 92.95, 73.06, 78.30),
    (81.54, 88.21, 89.03, 72.68, 77.72),
    (80.34, 85.36, 91.81, 70.82, 78.37),
    (78.68, 81.73, 89.99, 68.96, 77.20),
    (81.63, 88.57, 93.44, 73.82, 78.30),
    (82.13, 90.32, 94.21, 76.52, 78.92),
    (83.69, 91.08, 95.21, 75.38, 79.60),
    (83.08, 91.59, 95.55, 75.41, 79.71),
    (82.36, 92.04, 93.49, 67.27, 78.88),
    (83.48, 90.51, 96.60, 75.63, 80.02),
    (84.03, 92.40, 96.34, 75.77, 80.20),
)


def _as_in_paper(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**RECIPES.get(settings["method"], {}), **settings}


_ACCURACY = ("test_accuracy",)
_OF_THE_POLICY = ("policy_network", "policy_learning_rate", "policy_momentum", "policy_weight_decay")
# Another data set or network than the paper's can be given, and need not have images without labels.
_OF_A_RUN = (*decathlon.OF_DATASET, "predict_unlabelled", "network", "method")
_RECIPE = decathlon.settings(decathlon.DATASETS[0])
_WITH_POLICY = {name: _RECIPE[name] for name in ("frozen_first", *_OF_THE_POLICY)}
_TABLE_3_METHODS: Mapping[str, Mapping[str, Any]] = {
    "Scratch": {"method": "scratch"},
    "Feature Extractor": {"method": "feature_extractor"},
    "Fine-tuning": {"method": "standard"},
    "SpotTune (Global-k)": _as_in_paper({**_WITH_POLICY, "method": "spottune_global"}),
    "SpotTune": {**_WITH_POLICY, "method": "spottune"},
}

TABLES: Mapping[str, Table] = {
    "2": Table(
        "SpotTune and baselines on five data sets",
        "resnet50",
        {},
        dict.fromkeys(_TABLE_2_DATA, _ACCURACY),
        tuple(
            Row(
                name,
                # It starts from other weights than all other rows.
                None if settings.get("network") == "resnet101" else _as_in_paper(settings),
                {data: (number,) for data, number in zip(_TABLE_2_DATA, numbers, strict=True)},
            )
            for name, settings, numbers in zip(
                _TABLE_2_NAMES, TABLE_2_METHODS.values(), _TABLE_2_NUMBERS, strict=True
            )
        ),
        "the paper gives no rates, epochs and batch sizes for this table: they are those of the flags; "
        "the command spottune --compare chooses a rate for each method, and runs ResNet-101 with --resnet101",
    ),
    "3": Table(
        "Visual Decathlon, on one of its data sets",
        decathlon.NETWORK,
        {name: value for name, value in _RECIPE.items() if name not in (*_OF_A_RUN, *_WITH_POLICY)},
        dict.fromkeys(decathlon.DATASETS, _ACCURACY),
        tuple(
            Row(
                name,
                _TABLE_3_METHODS.get(name),
                {
                    data: (number,)
                    for data, number in zip(decathlon.DATASETS, published.accuracies, strict=True)
                },
            )
            for name, published in decathlon.TABLE_3.items()
        ),
        "ours is the accuracy on the validation split, the paper's that on the test split, whose labels are not "
        "public; the command decathlon runs all data sets and gives the score",
        {
            data: {name: decathlon.settings(data)[name] for name in decathlon.OF_DATASET if name != "dataset"}
            for data in decathlon.DATASETS
        },
    ),
}
