"""Files of torch: read bit for bit, strided tensors, sizes, byte orders, and which state of a checkpoint is taken."""

import itertools
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_containers import (
    CONTAINERS,
    FLOATS,
    GOLDEN,
    assert_same_state,
    call,
    integer,
    items,
    mapping,
    name,
    program,
    read_tree,
    several,
    storage,
    tensor,
    text,
    vector,
    write_legacy,
    write_torch,
    write_zip,
)

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write

GOLDEN_NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


@pytest.mark.parametrize("suffix", [".pth", "_legacy.pth"])
@pytest.mark.parametrize("case", GOLDEN_NAMES)
def test_files_of_torch_are_read_bit_for_bit(case: str, suffix: str) -> None:
    with np.load(GOLDEN / f"{case}.npz") as expected:
        assert_same_state(read_write.read(GOLDEN / f"{case}{suffix}"), dict(expected))


def test_golden_files_are_all_there() -> None:
    assert GOLDEN_NAMES == ["checkpoint", "dtypes", "layouts", "layouts_protocol4", "network_protocol5"]


@pytest.mark.parametrize("container", ["layouts.pth", "layouts_legacy.pth"])
def test_arrays_are_owned_contiguous_and_separate_even_from_a_shared_storage(container: str) -> None:
    state = read_write.read(str(GOLDEN / container))
    before = state["last_row"].copy()
    state["base"][:] = -1.0
    np.testing.assert_array_equal(state["last_row"], before)
    for array in state.values():
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".PTH", ".pth.tar"])
def test_every_torch_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes((GOLDEN / "network_protocol5.pth").read_bytes())
    assert "conv.weight" in read_write.read(path)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    numel=st.integers(0, 40),
    offset=st.integers(0, 20),
    axes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=4),
    container=st.sampled_from(CONTAINERS),
)
def test_strided_tensors_are_gathered_element_by_element_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    numel: int,
    offset: int,
    axes: list[tuple[int, int]],
    container: str,
) -> None:
    size, stride = tuple(length for length, _ in axes), tuple(step for _, step in axes)
    values = np.arange(numel, dtype="<f4") * 1.5
    path = tmp_path_factory.getbasetemp() / "strided.pth"
    tree = program(mapping(weight=tensor(storage("0", numel), offset, size, stride)))
    write_torch(container, path, tree, {"0": values.tobytes()})
    places = [
        offset + sum(index * step for index, step in zip(position, stride, strict=True))
        for position in itertools.product(*map(range, size))
    ]
    if any(place >= numel for place in places):
        with pytest.raises(UserError, match="damaged"):
            read_write.read(path)
    else:
        expected = np.array([values[place] for place in places], np.float32).reshape(size)
        assert_same_state(read_write.read(path), {"weight": expected})


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "body",
    [
        tensor(storage("0", 12), 13, (1,), (1,)),
        tensor(storage("0", 12), -1, (1,), (1,)),
        tensor(storage("0", 12), 0, (13,), (1,)),
        tensor(storage("0", 12), 11, (2,), (-1,)),
        tensor(storage("0", 12), 0, (-2,), (1,)),
        tensor(storage("0", 12), 0, (2, 2), (1,)),
        tensor(storage("0", 12), 0, (2, 2), (1, 2**62)),
        tensor(storage("0", 12), 2**64, (1,), (1,)),
        tensor(storage("0", 12), 0, (1,) * 65, (1,) * 65),
        tensor(storage("0", 13), 0, (13,), (1,)),
        tensor(storage("0", 2**60), 0, (2**60,), (1,)),
        tensor(storage("0", -1), 0, (1,), (1,)),
        tensor(storage("0", 12, "torch.DoubleStorage"), 0, (12,), (1,)),
        tensor(
            storage("0", 12, "torch.FloatStorage", items(text("1"), integer(8), integer(5))), 0, (5,), (1,)
        ),
        tensor(
            storage("0", 12, "torch.FloatStorage", items(text("1"), integer(8), integer(4))), 0, (5,), (1,)
        ),
        tensor(storage("missing", 12), 0, (12,), (1,)),
        tensor(storage("0", 12, "torch.uint16"), 0, (1,), (1,)),
        tensor(items(text("storage")), 0, (1,), (1,)),
        tensor(storage("0", 12), 0, (0, 2**70), (1, 1)),
    ],
)
def test_sizes_beyond_the_storage_are_refused(tmp_path: Path, container: str, body: bytes) -> None:
    path = write_torch(container, tmp_path / "hostile.pth", program(mapping(weight=body)), {"0": FLOATS})
    with pytest.raises(UserError, match=r"hostile\.pth (is damaged|unpacks to absurdly)"):
        read_write.read(path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path, container: str) -> None:
    huge = tensor(storage("0", 12), 0, (2**20, 2**20), (0, 0))  # legal as a view, 4 TiB as an array
    path = write_torch(container, tmp_path / "hostile.pth", program(mapping(weight=huge)), {"0": FLOATS})
    with pytest.raises(UserError, match="absurdly"):
        read_write.read(path)


def test_an_arbitrary_stride_on_an_axis_of_one_element_is_harmless(tmp_path: Path) -> None:
    body = tensor(storage("0", 12), 2, (1, 3), (2**80, 1))
    path = write_zip(tmp_path / "model.pth", program(mapping(weight=body)), {"0": FLOATS})
    assert read_write.read(path)["weight"].tolist() == [[2.0, 3.0, 4.0]]


def test_files_of_the_first_torch_versions_are_read(tmp_path: Path) -> None:
    view = storage("7", 12, "torch.cuda.FloatStorage", items(text("8"), integer(4), integer(6)))
    old_tensor = call(
        name("torch._utils._rebuild_tensor"), view, integer(1), items(integer(2)), items(integer(3))
    )
    flags = items(b"\x88", b"\x89", call(name("collections.OrderedDict")))
    parameter = call(name("torch.nn.parameter.Parameter"), old_tensor) + flags + b"b"
    byte_string = b"U\x06weight"  # SHORT_BINSTRING, a Python 2 string
    pair_lists = b"](](" + byte_string + parameter + b"ee"
    tree = program(call(name("collections.OrderedDict"), pair_lists))
    path = write_legacy(tmp_path / "old.pth", tree, {"7": FLOATS})
    assert_same_state(read_write.read(path), {"weight": np.array([5.0, 8.0], np.float32)})


def test_a_legacy_storage_is_counted_in_the_type_of_its_first_mention(tmp_path: Path) -> None:
    body = mapping(raw=storage("0", 48, "torch.storage.UntypedStorage"), weight=vector(12))
    path = write_legacy(tmp_path / "model.pth", program(body), {"0": FLOATS}, item_size=1)
    assert read_write.read(path)["weight"].tolist() == list(range(12))


def test_every_bfloat16_becomes_the_same_float32(tmp_path: Path) -> None:
    bits = np.arange(2**16, dtype="<u2")
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    body = tensor(storage("0", 2**16, "torch.BFloat16Storage"), 0, (2**16,), (1,))
    zipped = write_zip(tmp_path / "model.pth", program(mapping(weight=body)), {"0": bits.tobytes()})
    plain = tmp_path / "model.safetensors"
    plain.write_bytes(safetensors.numpy.save({"weight": bits.view(ml_dtypes.bfloat16)}))
    for path in (zipped, plain):
        actual = read_write.read(path)["weight"]
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, expected)


def test_big_endian_zip_files_are_swapped(tmp_path: Path) -> None:
    body = mapping(
        single=tensor(storage("0", 3), 1, (2,), (1,)),
        brain=tensor(storage("1", 2, "torch.BFloat16Storage"), 0, (2,), (1,)),
    )
    brain = np.array([1.5, -2.0], ml_dtypes.bfloat16).view(np.uint16).astype(">u2").tobytes()
    storages = {"0": np.array([1, 2, 3], ">f4").tobytes(), "1": brain}
    path = write_zip(tmp_path / "big.pth", program(body), storages, ("archive/byteorder", b"big"))
    state = read_write.read(path)
    assert_same_state(
        state, {"single": np.array([2, 3], np.float32), "brain": np.array([1.5, -2.0], np.float32)}
    )


def test_big_endian_legacy_files_are_refused(tmp_path: Path) -> None:
    system = pickle.dumps({"protocol_version": 1001, "little_endian": False}, 2)
    path = write_legacy(
        tmp_path / "big.pth", program(mapping(weight=vector(12))), {"0": FLOATS}, system=system
    )
    with pytest.raises(UserError, match="big-endian"):
        read_write.read(path)


def test_malformed_booleans_become_valid_ones(tmp_path: Path) -> None:
    body = tensor(storage("0", 3, "torch.BoolStorage"), 0, (3,), (1,))
    path = write_zip(tmp_path / "model.pth", program(mapping(mask=body)), {"0": b"\x00\x01\x7f"})
    assert read_write.read(path)["mask"].tobytes() == b"\x00\x01\x01"


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict"])
def test_a_wrapped_state_is_found_by_its_usual_name(tmp_path: Path, key: str) -> None:
    body = mapping(epoch=integer(3), best=vector(1), **{key: several(2)}, teacher=several(9, "t"))
    assert list(read_tree(tmp_path, body)) == ["w0", "w1"]


def test_a_state_wrapped_twice_is_found(tmp_path: Path) -> None:
    assert list(read_tree(tmp_path, mapping(model=mapping(state_dict=several(2))))) == ["w0", "w1"]


def test_the_largest_state_is_taken_if_no_name_is_usual(tmp_path: Path) -> None:
    assert len(read_tree(tmp_path, mapping(queue=several(2), encoder=several(5)))) == 5


def test_rivals_are_named_as_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"several states \('teacher', 'student'\)"):
        read_tree(tmp_path, mapping(student=several(3), teacher=several(4)))


def test_one_state_under_two_names_is_not_ambiguous(tmp_path: Path) -> None:
    memoized = several(3) + b"q\x01"
    assert len(read_tree(tmp_path, mapping(net=memoized, model=b"h\x01"))) == 3


def test_optimiser_states_are_never_taken_for_the_model(tmp_path: Path) -> None:
    moments = mapping(state=several(8), param_groups=b"]")
    assert len(read_tree(tmp_path, mapping(model=several(1), optimizer=moments))) == 1
    with pytest.raises(UserError, match="no dict of tensors"):
        read_tree(tmp_path, mapping(optimizer=moments))


def test_a_dict_inside_itself_is_walked_once(tmp_path: Path) -> None:
    knot = b"}q\x01(" + text("model") + b"h\x01" + text("weight") + vector(12) + b"u"
    assert list(read_tree(tmp_path, knot)) == ["weight"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes_are_removed(tmp_path: Path, prefix: str) -> None:
    arrays = {f"{prefix}fc.weight": np.zeros(2), f"{prefix}fc.module.bias": np.ones(3)}
    read_write.write(tmp_path / "model.npz", arrays)
    assert list(read_write.read(tmp_path / "model.npz")) == ["fc.weight", "fc.module.bias"]


def test_a_prefix_that_not_all_names_have_stays(tmp_path: Path) -> None:
    assert list(read_tree(tmp_path, mapping(**{"module.a": vector(1), "b": vector(1)}))) == ["module.a", "b"]
