"""A setting is one field: flag, checks, lists, help and documentation follow from it."""

import dataclasses

import pytest
from absl import flags

from finetune_jax.commands import command_line, parsing
from finetune_jax.config import groups, ranges, recorded, tables
from finetune_jax.config.checks import validate, without_idle_settings
from finetune_jax.config.declaration import declared, setting, with_property
from finetune_jax.config.settings import (
    LOCAL_SETTINGS,
    READING_SETTINGS,
    RUNTIME_SETTINGS,
    DataConfig,
    FinetuneConfig,
    MachineConfig,
    SimilarityConfig,
)
from finetune_jax.errors import UserError

CLASSES = (FinetuneConfig, SimilarityConfig, MachineConfig)


@dataclasses.dataclass(frozen=True)
class Novel:
    """A config with one new setting, as anybody would declare it."""

    sort_of: str = setting("plain", "Kind of everything.", ("plain", "fancy"))
    strength: float = setting(
        0.5,
        "Strength of the novelty.",
        group=groups.LOSS,
        range=ranges.UP_TO_ONE,
        only_with={"sort_of": ("fancy",)},
        runtime=True,
        before=0.0,
        aliases=("power",),
    )


@pytest.fixture
def flags_of_novel():
    command_line.define_flags(Novel)
    yield lambda *words: flags.FLAGS(["program", *words])
    for name in declared(Novel):
        delattr(flags.FLAGS, name)
        del command_line.SETTINGS[name]
    flags.FLAGS.unparse_flags()


def test_a_new_setting_is_one_field_and_has_flag_checks_lists_help_and_documentation(flags_of_novel, capsys):
    flags_of_novel("--sort_of=fancy", "--strength=0.25")
    assert command_line.read_flags(Novel) == Novel("fancy", 0.25)
    with pytest.raises(UserError, match=r"--strength=2\.0 is out of range; give a number from 0 to 1"):
        validate(Novel("fancy", 2.0))
    with pytest.raises(UserError, match=r"--strength=0\.1 is for --sort_of=fancy and has no meaning"):
        validate(Novel("plain", 0.1))
    assert without_idle_settings(Novel("plain", 0.1)) == Novel()
    assert with_property(Novel, "runtime") == ("strength",)
    assert recorded.completed({"sort_of": "fancy"}, Novel) == {"sort_of": "fancy", "strength": 0.0}
    for word, parts in {
        "--help": ("--strength",),
        "--help=loss": ("--strength=0.5", "Strength of the novelty. Only with --sort_of=fancy."),
        "--help=strength": ("--strength=0.5",),
    }.items():
        with pytest.raises(SystemExit):
            parsing.parse(["program", word], "novel", "Something.", declared(Novel))
        shown = capsys.readouterr().out
        assert all(part in shown for part in parts), word
    with pytest.raises(UserError, match="--power is called --strength here"):
        parsing.parse(["program", "--power=1"], "novel", "Something.", declared(Novel))
    assert (
        "| `--strength` | `0.5` | a number from 0 to 1 | Strength of the novelty. Only with --sort_of=fancy. "
        in tables.markdown(declared(Novel).values())
    )


def test_the_lists_of_settings_hold_what_runs_depend_on():
    assert set(RUNTIME_SETTINGS) >= {
        *("learning_rate", "effective_learning_rate", "head_learning_rate", "proxy_learning_rate"),
        *("policy_learning_rate", "momentum", "policy_momentum", "weight_decay", "effective_weight_decay"),
        *("policy_weight_decay", "layer_decay", "discriminative_ratio", "rate_factors", "schedule"),
        *("drop_epochs", "drop_factor", "cycles", "lowest_factor", "alpha", "beta", "threshold"),
        *("threshold_decay", "threshold_floor", "max_trials"),
    }
    compiled = {
        "batch_size",
        "nesterov",
        "optimizer",
        "method",
        "network",
        "temperature",
        "image_size",
        "loss",
    }
    assert not compiled & set(RUNTIME_SETTINGS)
    assert {"workdir", "cache_dir", "data_dir", "decode_workers"} <= LOCAL_SETTINGS
    assert not {"seed", "dataset", "epochs", "device_data_gb", "steps_per_dispatch"} & LOCAL_SETTINGS
    assert {"data_dir", "validation_fraction", "test_fraction", "split_seed", "image_size"} <= set(
        READING_SETTINGS
    )
    assert not {"dataset", "augmentation", "test_resize", "resize_mode"} & set(READING_SETTINGS)
    assert set(READING_SETTINGS) <= set(declared(DataConfig))


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_text_is_a_sentence_that_stands_alone(config_class):
    for name, known in declared(config_class).items():
        assert known.text.endswith("."), name
        assert known.text[0].isupper(), name
        assert len(known.text.split()) >= 3, name
        # What begins so needs the name of its flag in front of it.
        assert not known.text.startswith(("Of ", "In place of ", "0 ", "As --")), name
        assert known.group in groups.ALL, name


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_condition_names_settings_and_values_that_exist(config_class):
    settings = declared(config_class)
    for known in settings.values():
        for condition in (known.only_with, *known.value_only_with.values()):
            for other, needed in condition.items():
                switch = declared(FinetuneConfig)[other]
                values = (True, False) if switch.type is bool else switch.choices or ()
                assert set(needed) <= {*values, *switch.words}, known.name
        assert set(known.value_only_with) <= set(known.choices or ()), known.name


def test_no_name_of_another_tool_is_a_flag_of_this_one():
    settings = {**declared(FinetuneConfig), **declared(MachineConfig)}
    aliases = {alias for known in settings.values() for alias in known.aliases}
    assert not aliases & set(settings)
    assert {"lr", "bs", "batch", "model", "imgsz", "data", "output", "wd", "opt"} <= aliases


def test_settings_recorded_by_an_earlier_version_behave_as_they_did():
    @dataclasses.dataclass(frozen=True)
    class Later(DataConfig):
        warmth: int = setting(5, "Epochs of warm-up.", before=0)
        kinds: tuple[int, ...] = setting((1,), "Kinds of warmth.")

    old = {"dataset": "folder:photos", "ks": [1, 2], "a_name_that_is_gone": 1}
    config = recorded.config_of(old, Later)
    assert config == Later(dataset="folder:photos", ks=(1, 2), warmth=0, data_shards="1")
    assert recorded.config_of({**old, "warmth": 3, "kinds": [4]}, Later).warmth == 3
    assert recorded.config_of({"kinds": [4, 5]}, Later).kinds == (4, 5)


def test_a_data_set_named_by_its_folder_is_recorded_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "digits"):
        (tmp_path / folder).mkdir()
    spelling = declared(FinetuneConfig)["dataset"].spelling
    assert spelling is not None
    assert spelling("photos") == spelling("folder:photos") == "folder:photos"
    assert spelling(str(tmp_path / "photos")) == f"folder:{tmp_path / 'photos'}"
    assert spelling("digits") == "digits"
    assert spelling("tfds:cars196") == "tfds:cars196"
    assert spelling("absent") == "absent"
