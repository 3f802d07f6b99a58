"""Recipes by name: valid, complete as flags, and no trap for who changes some of them."""

import dataclasses
import json
import subprocess
import sys

import pytest

from finetune_jax.algorithms import autolr, hyperparameters, optimizer_rules
from finetune_jax.config import choices
from finetune_jax.config.checks import validate
from finetune_jax.config.methods import BY_NAME
from finetune_jax.config.named_recipes import NAMED_RECIPES, OF_OPTIMIZERS, VERSION, starting_config
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_a_recipe_is_a_valid_config(name):
    validate(starting_config(recipe=name))


@pytest.mark.parametrize("method", choices.METHODS)
def test_by_its_paper_a_method_starts_with_the_papers_numbers(method):
    assert starting_config(recipe="paper", method=method) == recipe(method)
    before = starting_config(method=method, version=1)
    assert before == (FinetuneConfig(method="lora") if method == "lora" else recipe(method))
    if not BY_NAME[method].start:
        assert starting_config(method=method) == recipe(method)


@pytest.mark.parametrize("method", [name for name, facts in BY_NAME.items() if facts.start])
def test_a_method_with_a_start_of_our_own_has_nothing_else_of_it_changed(method):
    paper, ours = starting_config(recipe="paper", method=method), starting_config(method=method)
    changed = {name for name, value in vars(ours).items() if value != vars(paper)[name]}
    assert changed <= {"optimizer", "learning_rate", "head_learning_rate"}
    rate = 1e-2 if method == "feature_extractor" else 1e-3
    assert (ours.optimizer, ours.learning_rate, ours.head_learning_rate) == ("adamw", rate, 0.0)
    validate(ours)
    if method != "standard":
        assert starting_config(method=method, version=4) == paper


@pytest.mark.parametrize(
    ("given", "optimizer", "rates"),
    [
        ({}, "adamw", (1e-3, 0.0)),
        ({"recipe": "paper"}, "sgd", (1e-3, 1e-2)),
        ({"recipe": "autolr", "method": None}, "sgd", (1e-3, 1e-2)),
        ({"optimizer": "sgd"}, "sgd", (1e-3, 1e-2)),
        ({"typed": {"head_learning_rate": 0.1}}, "sgd", (1e-3, 1e-2)),
        ({"typed": {"protocol": "retrieval"}}, "sgd", (1e-3, 1e-2)),
        # A head at SGD's 0.01 would be too fast for others.
        ({"optimizer": "adamw", "typed": {"learning_rate": 0.01}}, "adamw", (1e-3, 0.0)),
        ({"optimizer": "lion"}, "lion", (1e-4, 0.0)),
        ({"optimizer": "adamw", "version": 4}, "adamw", (1e-3, 1e-2)),
    ],
)
def test_autolr_starts_as_the_plain_command_where_nothing_says_otherwise(given, optimizer, rates):
    config = starting_config(**{"method": "autolr"} | given)
    assert config.method == "autolr"
    assert (config.optimizer, config.learning_rate, config.head_learning_rate) == (optimizer, *rates)
    assert config.epochs == 50


@pytest.mark.parametrize(
    ("given", "optimizer", "rate"),
    [
        ({}, "adamw", 1e-3),
        ({"typed": {"epochs": 5, "pretrained": "mobilenet_v2"}}, "adamw", 1e-3),
        # A rate without an optimiser is one of SGD, as it was before AdamW was the default.
        ({"typed": {"learning_rate": 0.1}}, "sgd", 0.01),
        ({"typed": {"momentum": 0.0}}, "sgd", 0.01),
        ({"optimizer": "sgd"}, "sgd", 0.01),
        # Nothing was measured for these.
        ({"typed": {"pretrained": "none"}}, "sgd", 0.01),
        ({"typed": {"protocol": "retrieval"}}, "sgd", 0.01),
        ({"method": "norms"}, "sgd", 0.01),
        ({"method": "feature_extractor", "typed": {"pretrained": "dinov2_small_focus"}}, "adamw", 1e-2),
        ({"method": "last_k"}, "adamw", 1e-3),
        ({"method": "l2_sp", "version": 4}, "sgd", 0.01),
        ({"version": 3}, "sgd", 0.01),
        ({"recipe": "paper"}, "sgd", 0.01),
    ],
)
def test_the_plain_command_takes_adamw_where_nothing_says_that_sgd_is_meant(given, optimizer, rate):
    config = starting_config(**given)
    assert (config.optimizer, config.learning_rate) == (optimizer, rate)
    validate(config)


@pytest.mark.parametrize(
    ("typed", "rate"),
    [
        ({"network": "vit_tiny_patch16_224", "pretrained": "weights.npz"}, 3e-5),
        ({"pretrained": "dinov2_small_focus"}, 3e-5),
        ({"pretrained": "timm:vit_small_patch14_dinov2.lvd142m"}, 3e-5),
        ({"pretrained": "hf:facebook/dinov2-small"}, 3e-5),
        ({"pretrained": "hf:facebook/dinov3-convnext-tiny-pretrain-lvd1689m"}, 1e-3),
        ({"pretrained": "runs/vit"}, 1e-3),
        ({"pretrained": "mobilenet_v2"}, 1e-3),
    ],
)
def test_transformers_start_at_a_rate_of_their_own(typed, rate):
    assert starting_config(typed=typed).learning_rate == rate
    assert starting_config(typed=typed, optimizer="adamw").learning_rate == rate
    assert starting_config(typed=typed, version=5).learning_rate == (1e-4 if rate == 3e-5 else 1e-3)
    assert starting_config(typed=typed, version=4).learning_rate == 1e-3
    assert starting_config(typed=typed, optimizer="sgd").learning_rate == 0.01


def test_rates_of_transformers_are_searched_from_their_own_and_others_from_that_of_sgd():
    def start(pretrained, **settings):
        config = starting_config(method="auto", typed={"pretrained": pretrained}, **settings)
        return config.optimizer, config.learning_rate

    assert start("dinov2_small_focus") == ("adamw", 3e-5)
    assert start("dinov2_small_focus", optimizer="sgd") == start("mobilenet_v2") == ("sgd", 0.01)
    assert start("dinov2_small_focus", version=5) == ("sgd", 0.01)


def test_the_papers_recipes_have_the_papers_numbers():
    ours, paper = starting_config(recipe="rethinking"), hyperparameters.FINE_TUNING
    for name in (
        "epochs",
        "drop_epochs",
        "learning_rate",
        "momentum",
        "weight_decay",
        "batch_size",
        "drop_factor",
    ):
        assert getattr(ours, name) == getattr(paper, name)
    assert starting_config(recipe="autolr") == recipe("autolr")


@pytest.mark.parametrize("optimizer", choices.OPTIMIZERS)
def test_every_optimiser_starts_with_a_valid_config_and_those_without_a_rate_at_one(optimizer):
    config = starting_config(optimizer=optimizer)
    validate(config)
    if optimizer in choices.WITHOUT_RATE:
        assert config.learning_rate == 1.0
    elif optimizer != "sgd":
        assert config.learning_rate <= 1e-3
    assert set(OF_OPTIMIZERS) == set(choices.OPTIMIZERS) - {"sgd"}


def test_runs_of_before_go_on_with_the_values_that_they_began_with():
    assert starting_config(optimizer="adamw", version=1).learning_rate == FinetuneConfig().learning_rate
    assert starting_config(version=1) == starting_config(version=2) == FinetuneConfig()
    assert starting_config(optimizer="lion", version=1).learning_rate == 1e-4


def test_lora_starts_with_adamw_unless_a_recipe_or_an_optimiser_has_rates_of_its_own():
    lora = starting_config(method="lora")
    assert (lora.optimizer, lora.learning_rate) == ("adamw", 1e-3)
    by_hand = starting_config(method="lora", optimizer="sgd")
    assert (by_hand.optimizer, by_hand.learning_rate) == ("sgd", FinetuneConfig().learning_rate)
    of_sgd = starting_config(recipe="rethinking", method="lora")
    assert (of_sgd.optimizer, of_sgd.learning_rate) == ("sgd", 0.01)
    of_adamw = starting_config(recipe="lightly", method="lora")
    assert (of_adamw.optimizer, of_adamw.learning_rate) == ("adamw", 3e-4)
    assert starting_config(method="lora", version=2) == FinetuneConfig(method="lora")


def test_another_optimiser_than_the_recipes_has_its_own_rate():
    assert starting_config(recipe="autogluon", optimizer="prodigy").learning_rate == 1.0
    assert starting_config(recipe="autogluon", optimizer="adamw").learning_rate == 1e-4


def test_names_without_jax_are_those_with_rules():
    assert choices.OPTIMIZERS == optimizer_rules.NAMES
    assert choices.WITHOUT_RATE == optimizer_rules.WITHOUT_RATE
    assert choices.DECAYS_EVERYTHING == optimizer_rules.DECAYS_EVERYTHING
    assert choices.VARIATIONS == autolr.MEASURES
    assert choices.SPACINGS == autolr.SPACINGS


def printed(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", "experiments.finetune", *arguments, "--print_flags"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_printed_flags_are_a_flag_file_of_the_same_run(tmp_path):
    text = printed(
        "--recipe=autogluon",
        "--epochs=7",
        "--mixup=0.2",
        "--augmentation=flip",
        "--nonesterov",
        "--optimizer=sgd",
    )
    lines = text.splitlines()
    assert {"--epochs=7", "--mixup=0.2", "--layer_decay=0.9", "--nonesterov", "--nodecay_norms"} <= set(lines)
    assert not any(line.startswith("--learning_rate") for line in lines)  # SGD has its own
    (tmp_path / "flags.txt").write_text(text)
    assert printed(f"--flagfile={tmp_path / 'flags.txt'}") == text


def test_what_only_a_recipe_has_set_gives_way_to_what_is_typed():
    assert "color_jitter" not in printed("--recipe=dinov2_linear", "--augmentation=flip")
    assert "drop_epochs" not in printed("--recipe=rethinking", "--schedule=cosine")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"mixup": 0.2, "loss": "proxy_anchor", "protocol": "retrieval"},
            "--mixup=0.2 has no meaning with --loss=proxy_anchor",
        ),
        (
            {"head_epochs": 2, "method": "feature_extractor"},
            "--head_epochs=2 has no meaning with --method=feature_extractor",
        ),
        ({"head_epochs": 1, "pretrained": "none"}, "--head_epochs=1 has no meaning with --pretrained=none"),
        ({"head_epochs": 20}, "--head_epochs=20 leaves none of --epochs=20"),
        ({"ema_decay": 1.0}, "--ema_decay=1.0 is out of range"),
        ({"ema_decay": -0.1}, "--ema_decay=-0.1 is out of range"),
        ({"clip_norm": 0.0}, "--clip_norm=0.0 is out of range"),
        ({"clip_norm": -1.0}, "--clip_norm=-1.0 is out of range"),
        ({"clip_norm": 1.0, "clip": "agc"}, "--clip=agc and --clip_norm both"),
        ({"clip_ratio": 0.1}, "--clip_ratio=0.1 is for --clip=agc"),
        ({"ema_decay": 0.9, "swa_epochs": 2}, "--ema_decay and --swa_epochs"),
        ({"swa_epochs": 30}, "--swa_epochs=30 is more than --epochs=20"),
        (
            {"ema_decay": 0.9, "optimizer": "schedule_free_adamw"},
            "--ema_decay contradicts --optimizer=schedule_free_adamw",
        ),
        ({"optimizer": "prodigy", "method": "autolr"}, "--optimizer=prodigy contradicts --method=autolr"),
        ({"unfreeze_epochs": 1, "method": "autolr"}, "--unfreeze_epochs contradicts --method=autolr"),
        (
            {"decay_norms": False, "optimizer": "prodigy"},
            "--decay_norms=false has no meaning with --optimizer=prodigy",
        ),
        ({"block_estimates": True}, "--block_estimates=true is for --optimizer=prodigy or"),
        ({"mix_probability": 0.5}, "--mix_probability=0.5 has no meaning without --mixup or --cutmix"),
        ({"mixup": 0.2, "cutmix_probability": 0.9}, "--cutmix_probability has no meaning without both"),
        ({"accumulate_steps": 0}, "--accumulate_steps=0 is out of range"),
        ({"warmup_epochs": -1.0}, "--warmup_epochs=-1.0 is out of range"),
        ({"class_weights": "balanced:2"}, "--class_weights=balanced:2 is not known"),
        ({"class_weights": "heavy"}, "--class_weights=heavy is not known; choose none"),
        ({"class_weights": "balanced:0.5", "balanced_sampling": True}, "correct the same thing twice"),
        ({"min_rate_factor": 0.1, "schedule": "constant"}, "--min_rate_factor=0.1 is for --schedule=cosine"),
        ({"focal_gamma": 1.0}, "--focal_gamma=1.0 is for --loss=focal"),
        ({"keep_head": True, "pretrained": "none"}, "--keep_head contradicts --pretrained=none"),
        ({"erasing": 1.5}, "--erasing=1.5 is out of range"),
        ({"average_statistics": "kept"}, "--average_statistics=kept is for --swa_epochs and"),
        ({"keep_epochs": 0}, "--keep_epochs=0 is out of range"),
        ({"radius_rate": 0.1}, "--radius_rate=0.1 is for --method=ftp"),
        ({"method": "ftp", "radius_shrinking": 1.5}, "--radius_shrinking=1.5 is out of range"),
        ({"method": "ftp", "pretrained": "none"}, "--method=ftp needs weights"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes, named):
    with pytest.raises(UserError) as error:
        validate(dataclasses.replace(FinetuneConfig(), **changes))
    assert named in str(error.value)


def test_printed_flags_name_what_the_command_would_take_otherwise(tmp_path):
    text = printed("--method=autolr", "--learning_rate=0.01", "--head_learning_rate=0.01")
    assert text.splitlines() == ["--optimizer=sgd", "--learning_rate=0.01", "--method=autolr"]
    assert printed("--method=autolr").splitlines() == ["--optimizer=adamw", "--method=autolr"]
    assert printed("--optimizer=adamw", "--learning_rate=0.01").splitlines() == [
        "--optimizer=adamw",
        "--learning_rate=0.01",
    ]


def test_printed_flags_always_name_the_optimiser_that_depends_on_what_is_typed():
    assert printed("--epochs=3").splitlines() == ["--optimizer=adamw", "--epochs=3"]
    assert printed("--recipe=paper", "--epochs=3").splitlines() == ["--optimizer=sgd", "--epochs=3"]
    assert printed("--learning_rate=0.01").splitlines() == ["--optimizer=sgd"]
    fast = ("--optimizer=adamw", "--learning_rate=0.001", "--pretrained=dinov2_small_focus")
    assert set(printed(*fast).splitlines()) == set(fast)


def test_a_run_that_began_before_goes_on_with_what_it_began_with(tmp_path):
    old = {"learning_rate": 0.01, "optimizer": "adamw"}
    (tmp_path / "flags.json").write_text(json.dumps(old))
    assert "learning_rate" not in printed("--optimizer=adamw", "--learning_rate=0.001")
    assert "--learning_rate=0.01" in printed("--optimizer=adamw", f"--workdir={tmp_path}").splitlines()
    (tmp_path / "flags.json").write_text(json.dumps({**old, "resolved": {"starting_version": VERSION}}))
    assert "learning_rate" not in printed("--optimizer=adamw", f"--workdir={tmp_path}")
    (tmp_path / "flags.json").write_text(
        json.dumps({"method": "autolr", "resolved": {"starting_version": 4}})
    )
    assert "--optimizer=sgd" in printed("--method=autolr", f"--workdir={tmp_path}").splitlines()
