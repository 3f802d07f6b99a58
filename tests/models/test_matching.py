"""Files of weights as other tools save them: prefixes, heads, other entries, averaged weights, one channel."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from finetune_jax import models
from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write
from finetune_jax.models.weights import matching, pretrained

NETWORK = models.create("resnet18", num_classes=5, width=0.125)
SMALL = [models.create(name, 1, width=0.125) for name in ("resnet34", "resnet18", "mobilenet_v2")]
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    variables = NETWORK.init(jax.random.key(3), IMAGES)
    return models.to_torch_state(NETWORK, variables)


def body(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def below(prefix: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: value for name, value in state.items()}


def match(state: dict[str, np.ndarray], entry: str = "") -> matching.Match:
    return matching.match("FILE", state, SMALL, entry)


PREFIXES = [
    "",
    "model.",
    "module.",
    "net.",
    "backbone.",
    "encoder.",
    "_orig_mod.",
    "module.model.backbone.",
    "a.b.c.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("headless", [False, True])
def test_a_prefix_before_every_name_is_removed(
    state: dict[str, np.ndarray], prefix: str, headless: bool
) -> None:
    found = match(below(prefix, body(state) if headless else state))
    assert (found.network.architecture, found.network.num_classes) == ("resnet18", 1 if headless else 5)
    for name, value in body(state).items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(found.state[name], value)
    assert any("fresh one takes its place" in note for note in found.notes) == headless
    # A fresh classifier is one that the network can begin with.
    assert found.state["fc.weight"].shape == (1 if headless else 5, 64)


@pytest.mark.parametrize(
    "others",
    [
        {"projector.0.weight": (64, 64), "projector.2.bias": (8,)},
        {"queue": (16, 100), "queue_ptr": (1,)},
        {"criterion.weight": (5,)},
        {"head.weight": (9, 64), "n_averaged": ()},
    ],
)
def test_entries_beside_the_network_are_left_out_and_told(
    state: dict[str, np.ndarray], others: dict[str, tuple[int, ...]]
) -> None:
    beside = {name: np.ones(shape, np.float32) for name, shape in others.items()}
    for content in (body(state) | beside, below("encoder.", body(state)) | beside):
        found = match(content)
        assert found.network.architecture == "resnet18"
        assert not set(beside) & set(found.state)
        assert any(note.startswith("left out: ") for note in found.notes)


def test_a_head_of_another_kind_makes_way_for_a_fresh_one(state: dict[str, np.ndarray]) -> None:
    mlp = {"fc.0.weight": np.ones((64, 64)), "fc.2.weight": np.ones((9, 64)), "fc.2.bias": np.ones(9)}
    found = match(body(state) | mlp)
    assert found.network.num_classes == 1
    assert found.notes[0].startswith("left out: fc")
    assert match(body(state) | {"fc.weight": np.ones((9, 64))}).network.num_classes == 1


def test_a_layer_more_inside_the_network_is_no_accessory(state: dict[str, np.ndarray]) -> None:
    attention = {"layer1.0.attention.weight": np.ones((4, 4))}
    with pytest.raises(UserError, match=r"nearest is resnet18 .*\(surplus: layer1\.0\.attention\.weight\)"):
        match(state | attention)


def test_two_networks_in_one_file_are_named_and_one_is_chosen(state: dict[str, np.ndarray]) -> None:
    both = below("encoder_q.", state) | below("encoder_k.", {k: 2 * v for k, v in state.items()})
    with pytest.raises(
        UserError, match=r"several networks \(encoder_q, encoder_k\); choose one with --weights"
    ):
        match(both)
    chosen = match(both, "encoder_k").state["conv1.weight"]
    np.testing.assert_array_equal(chosen, 2 * state["conv1.weight"])


def test_averaged_weights_are_another_choice_and_told(state: dict[str, np.ndarray]) -> None:
    both = below("model.", state) | below("ema_model.module.", {k: 2 * v for k, v in state.items()})
    found = match(both)
    np.testing.assert_array_equal(found.state["conv1.weight"], state["conv1.weight"])
    assert "--weights_entry=ema_model.module takes the averaged ones" in found.notes[-1]
    chosen = match(both, "ema_model").state["conv1.weight"]
    np.testing.assert_array_equal(chosen, 2 * state["conv1.weight"])
    assert match(below("ema_model.", state)).network.architecture == "resnet18"


def test_a_grey_stem_gives_for_grey_images_what_it_gave_for_the_grey_channel(
    state: dict[str, np.ndarray],
) -> None:
    grey = dict(state)
    grey["conv1.weight"] = state["conv1.weight"][:, :1]
    found = match(grey)
    spread = found.state["conv1.weight"]
    assert spread.shape == state["conv1.weight"].shape
    channel = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    expected = np.einsum("ohw,hw->o", grey["conv1.weight"][:, 0], channel)
    np.testing.assert_allclose(np.einsum("ochw,hw->o", spread, channel), expected, rtol=1e-5, atol=1e-6)
    assert "takes one channel" in found.notes[0]
    four = {**state, "conv1.weight": np.repeat(grey["conv1.weight"], 4, axis=1)}
    with pytest.raises(UserError, match=r"conv1\.weight \(8, 4, 7, 7\) instead of \(8, 3, 7, 7\)"):
        match(four)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(state: dict[str, np.ndarray], value: float) -> None:
    broken = {name: array.copy() for name, array in state.items()}
    broken["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(
        UserError, match=r"FILE holds NaN or infinite numbers in layer2\.0\.conv1\.weight \(1 of"
    ):
        match(broken)


def test_a_file_of_something_else_says_that_nothing_is_near() -> None:
    words = {f"transformer.h.{n}.attn.c_attn.weight": np.ones((4, 4)) for n in range(9)}
    with pytest.raises(
        UserError, match=r"none is near: its entries are transformer\.h\.0\.attn.* and 5 more"
    ):
        match(words)


def test_the_named_network_is_the_only_one_that_is_tried(state: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"FILE: the weights do not fit network resnet34.*missing: layer1\.2"):
        matching.match("FILE", below("model.", state), SMALL[:1])


# --- files and folders ----------------------------------------------------------------------------------


def resolve(path: Path, **settings: object) -> pretrained.Pretrained:
    return pretrained.resolve(str(path), architecture="resnet18", width=0.125, **settings)  # type: ignore[arg-type]


def contiguous(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt"])
def test_the_content_decides_how_a_file_is_read(
    tmp_path: Path, state: dict[str, np.ndarray], suffix: str
) -> None:
    (tmp_path / f"model{suffix}").write_bytes(safetensors.numpy.save(contiguous(state)))
    assert resolve(tmp_path / f"model{suffix}").network.num_classes == 5


def test_a_folder_as_hugging_face_keeps_it_is_read(tmp_path: Path, state: dict[str, np.ndarray]) -> None:
    read_write.write(tmp_path / "model.safetensors", state)
    config = {
        "architecture": "resnet18",
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "input_size": [3, 96, 96]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = resolve(tmp_path)
    assert (found.mean, found.std, found.image_size) == ((0.1, 0.2, 0.3), pretrained.IMAGENET_STD, 96)
    (tmp_path / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"mean": "x", "input_size": [3, 9e9]}})
    )
    assert resolve(tmp_path).image_size == 224
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        resolve(tmp_path)


def shards(folder: Path, state: dict[str, np.ndarray], *names: str) -> None:
    keys = list(state)
    parts = {name: keys[number :: len(names)] for number, name in enumerate(names)}
    for name, own in parts.items():
        if "/" not in name:
            (folder / name).write_bytes(safetensors.numpy.save({key: contiguous(state)[key] for key in own}))
    index = {"weight_map": {key: name for name, own in parts.items() for key in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_put_together(tmp_path: Path, state: dict[str, np.ndarray]) -> None:
    shards(tmp_path, state, "model-1-of-2.safetensors", "model-2-of-2.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert resolve(path).network.num_classes == 5
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"names the shard model-2-of-2\.safetensors, which is not there"):
        resolve(tmp_path)


def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, state: dict[str, np.ndarray]) -> None:
    shards(tmp_path, state, "model-1.safetensors", "../secret.safetensors")
    (tmp_path.parent / "secret.safetensors").write_bytes(safetensors.numpy.save(contiguous(state)))
    with pytest.raises(UserError, match="which is no file beside it"):
        resolve(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"weight_map": 3}', b'{"weight_map": {}}', b"[" * 99999, b"\xff"]
)
def test_a_damaged_index_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(UserError, match=r"is (no intact index of shards|an index without shards)"):
        resolve(tmp_path)


def test_an_entry_that_is_not_there_is_named(tmp_path: Path, state: dict[str, np.ndarray]) -> None:
    read_write.write(tmp_path / "model.npz", state)
    with pytest.raises(UserError, match=r"--weights_entry=teacher is not in .*model\.npz"):
        resolve(tmp_path / "model.npz", entry="teacher")
