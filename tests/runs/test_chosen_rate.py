"""``--learning_rate=auto`` is refused where it would be no more than a guess."""

from types import SimpleNamespace

import pytest

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.runs.chosen_rate import refuse_a_guess


def origin(architecture):
    return SimpleNamespace(network=SimpleNamespace(architecture=architecture))


def test_a_network_that_table_4_does_not_have_is_refused_with_what_to_give():
    config = FinetuneConfig(learning_rate="auto")
    with pytest.raises(
        UserError, match=r"learning_rate=auto: .*no more than a guess: give --reference=FILE\.json"
    ):
        refuse_a_guess(config, origin("resnet26"), None)


@pytest.mark.parametrize(
    ("more", "architecture", "before"),
    [
        ({}, "resnet101v2", None),
        ({"reference": "imagenet/resnet101"}, "resnet26", None),  # whoever names a column wants it
        ({}, "resnet26", {"learning_rate": 0.01, "reason": "as it was"}),  # a run that has begun
        ({"learning_rate": 0.01}, "resnet26", None),
    ],
)
def test_what_is_known_or_asked_for_is_taken(more, architecture, before):
    refuse_a_guess(FinetuneConfig(**{"learning_rate": "auto", **more}), origin(architecture), before)
