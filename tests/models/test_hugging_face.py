"""Networks with states of transformers, against that library's outputs (tests/golden/make_hugging_face_goldens.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_hugging_face_goldens import IMAGE_SIDES, seeded_values
from seeded_state import seeded_images

from finetune_jax import models, pruning
from finetune_jax.models.weights import hugging_face

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "hugging_face.npz"))
NETWORKS = {
    "registers": ("vit_small_patch14_reg4_dinov2", 1 / 6, 10),
    "siglip": ("vit_base_patch32_siglip_256", 1 / 12, 10),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", 1 / 6, 10),
    "dinov3_gated": ("vit_small_plus_patch16_dinov3_qkvb", 1 / 6, 10),
    "convnextv2": ("convnextv2_atto", 0.1, 0),
    "dinov3_convnext": ("convnext_tiny", 1 / 24, 0),
}


def state_of(name):
    rows = zip(GOLDEN[f"{name}/names"], GOLDEN[f"{name}/shapes"], strict=True)
    return seeded_values({str(entry): tuple(int(size) for size in row if size) for entry, row in rows})


def network_of(name):
    architecture, width, without = NETWORKS[name]
    sized = {} if "convnext" in name else {"image_size": IMAGE_SIDES[name]}
    return pruning.truncate(models.create(architecture, 3, width=width, **sized), without)


@pytest.mark.parametrize("name", NETWORKS)
def test_embeddings_with_states_of_transformers_are_those_of_the_library(name):
    network = network_of(name)
    variables = models.from_torch_state(network, state_of(name))
    images = jnp.asarray(seeded_images(2, IMAGE_SIDES[name]))
    expected = GOLDEN[f"{name}/embedding"]
    found = jax.jit(network.embed)(variables, images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "convnextv2"])
def test_a_state_goes_to_timm_and_back(name):
    state = {entry: value for entry, value in state_of(name).items() if "mask_token" not in entry}
    there = hugging_face.as_timm(state)
    back = hugging_face.from_timm(there)
    assert back.keys() == state.keys()
    if name == "registers":
        # The class token's own position is in the token now; the library adds the two again.
        for both in (state, back):
            both["embeddings.cls_token"] = (
                both["embeddings.cls_token"] + both["embeddings.position_embeddings"][:, :1]
            )
            both["embeddings.position_embeddings"] = both["embeddings.position_embeddings"][:, 1:]
    for entry, value in state.items():
        np.testing.assert_allclose(back[entry], value, rtol=1e-6, err_msg=entry)


def test_towers_are_found_below_the_name_of_a_larger_model():
    state = state_of("siglip")
    whole = {f"vision_model.{entry}": value for entry, value in state.items()}
    found = hugging_face.as_timm(
        {**whole, "text_model.final_layer_norm.weight": np.ones(3), "logit_scale": np.ones(1)}
    )
    expected = hugging_face.as_timm(state)
    assert found.keys() == expected.keys()


def test_modules_of_version_5_have_other_names_than_files():
    state = state_of("dinov3")
    modules = {
        ("model." if entry.startswith("layer.") else "") + entry: value for entry, value in state.items()
    }
    assert hugging_face.as_timm(modules).keys() == hugging_face.as_timm(state).keys()


def test_biases_of_zeros_are_those_of_a_network_without():
    state = state_of("dinov3")
    zeros = {
        entry: np.zeros_like(value) if entry.endswith(("q_proj.bias", "v_proj.bias")) else value
        for entry, value in state.items()
    }
    network = pruning.truncate(models.create("vit_small_patch16_dinov3", 3, width=1 / 6, image_size=48), 10)
    models.from_torch_state(network, zeros)


def test_other_states_stay_as_they_are():
    state = {"conv1.weight": np.ones((2, 2)), "fc.bias": np.ones(2)}
    assert hugging_face.as_timm(state) == state
    with pytest.raises(ValueError, match="no state of"):
        hugging_face.from_timm(state)
