"""Reading and writing files of weights. How the torch files were made: `golden/make_torch_files.py`."""

import argparse
import collections
import copyreg
import io
import itertools
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_files"
GOLDEN_NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def assert_same_state(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Same names in the same order, dtypes, shapes and bits (so that -0.0 and NaN count)."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert isinstance(actual[name], np.ndarray), name
        assert actual[name].dtype == array.dtype, name
        assert actual[name].shape == array.shape, name
        assert actual[name].tobytes() == array.tobytes(), name


# --- a small assembler for pickles and the two torch containers, independent of the reader -----------------

CONTAINERS = ["zip", "legacy"]


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + items(*arguments) + b"R"


def mapping(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(key: str, numel: int, kind: str = "torch.FloatStorage", *view: bytes) -> bytes:
    return items(text("storage"), name(kind), text(key), text("cpu"), integer(numel), *view) + b"Q"


def tensor(stored: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    return call(
        name("torch._utils._rebuild_tensor_v2"),
        stored,
        integer(offset),
        items(*map(integer, size)),
        items(*map(integer, stride)),
        b"\x89",
        call(name("collections.OrderedDict")),
    )


def vector(values: int, key: str = "0") -> bytes:
    return tensor(storage(key, values), 0, (values,), (1,))


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def write_zip(path: Path, tree: bytes, storages: dict[str, bytes], *extra: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tree)
        for member, content in extra:
            archive.writestr(member, content)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return path


MAGIC = program(integer(0x1950A86A20F9469CFC6C))
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}, 2)


def write_legacy(
    path: Path,
    tree: bytes,
    storages: dict[str, bytes],
    *,
    item_size: int = 4,
    magic: bytes = MAGIC,
    system: bytes = SYSTEM,
    keys: bytes | None = None,
) -> Path:
    parts = [magic, program(integer(1001)), system, tree, keys or pickle.dumps(list(storages), 2)]
    for content in storages.values():
        parts += [struct.pack("<q", len(content) // item_size), content]
    path.write_bytes(b"".join(parts))
    return path


def write_torch(container: str, path: Path, tree: bytes, storages: dict[str, bytes]) -> Path:
    return (write_zip if container == "zip" else write_legacy)(path, tree, storages)


FLOATS = np.arange(12, dtype="<f4").tobytes()


# --- torch files -------------------------------------------------------------------------------------------


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


# --- which state of a checkpoint ---------------------------------------------------------------------------


def read_tree(tmp_path: Path, body: bytes) -> dict[str, np.ndarray]:
    return read_write.read(write_zip(tmp_path / "checkpoint.pth", program(body), {"0": FLOATS}))


def several(count: int, prefix: str = "w") -> bytes:
    return mapping(**{f"{prefix}{index}": vector(12) for index in range(count)})


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


# --- hostile pickles ---------------------------------------------------------------------------------------


class _Shell:
    """Pickles as a call of os.system."""

    def __init__(self, sentinel: Path) -> None:
        self.command = f"touch '{sentinel}'"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def _system(sentinel: Path) -> bytes:
    return text(f"touch '{sentinel}'")


def _python(sentinel: Path) -> bytes:
    return text(f"open({str(sentinel)!r}, 'w').close()")


# Bodies (between PROTO and STOP) that run something when pickle.loads sees them.
ATTACKS: dict[str, Callable[[Path], bytes]] = {
    "reduce os.system, GLOBAL": lambda s: call(name("os.system"), _system(s)),
    "reduce posix.system, memoized": lambda s: (
        name("posix.system") + b"q\x050h\x05" + items(_system(s)) + b"R"
    ),
    "reduce eval, GLOBAL": lambda s: call(name("builtins.eval"), _python(s)),
    "reduce eval, Python 2 name": lambda s: call(name("__builtin__.eval"), _python(s)),
    "reduce exec, STACK_GLOBAL": lambda s: call(text("builtins") + text("exec") + b"\x93", _python(s)),
    "reduce os.system, STACK_GLOBAL": lambda s: call(text("os") + text("system") + b"\x93", _system(s)),
    "class by INST": lambda s: b"(" + _system(s) + b"ios\nsystem\n",
    "class by OBJ": lambda s: b"(" + name("os.system") + _system(s) + b"o",
    "class by EXT1": lambda s: call(b"\x82\xf0", _system(s)),
    "__setstate__ by BUILD": lambda s: (
        call(name("functools.partial"), name("builtins.len"))
        + items(name("os.system"), items(_system(s)), b"}", b"N")
        + b"b)R"
    ),
    "getattr chain": lambda s: call(
        call(name("builtins.getattr"), call(name("importlib.import_module"), text("os")), text("system")),
        _system(s),
    ),
    "nested beside weights": lambda s: (
        b"}("
        + text("state_dict")
        + b"}"
        + text("optimizer")
        + b"]"
        + call(name("os.system"), _system(s))
        + b"au"
    ),
    "state of an OrderedDict": lambda s: (
        call(name("collections.OrderedDict")) + mapping(hook=call(name("os.system"), _system(s))) + b"b"
    ),
    "items of an OrderedDict": lambda s: call(
        name("collections.OrderedDict"),
        b"](](" + text("weight") + call(name("os.system"), _system(s)) + b"ee",
    ),
} | {
    f"pickle.dumps protocol {protocol}": lambda s, protocol=protocol: pickle.dumps(_Shell(s), protocol)[:-1]
    for protocol in range(6)
}


@pytest.fixture
def _extension_registry() -> object:
    copyreg.add_extension("os", "system", 0xF0)
    yield
    copyreg.remove_extension("os", "system", 0xF0)
    copyreg.clear_extension_cache()


def _plant(container: str, path: Path, attack: bytes) -> Path:
    good = program(mapping(weight=vector(12)))
    if container == "zip":
        return write_zip(path, attack, {"0": FLOATS})
    if container == "legacy":
        return write_legacy(path, attack, {"0": FLOATS})
    return write_legacy(path, good, {"0": FLOATS}, **{container.removeprefix("legacy "): attack})


@pytest.mark.usefixtures("_extension_registry")
@pytest.mark.parametrize("container", ["zip", "legacy", "legacy magic", "legacy system", "legacy keys"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, attack: str, container: str) -> None:
    sentinel = tmp_path / "sentinel"
    body = ATTACKS[attack](sentinel) + b"."
    attacking = body if attack.startswith("pickle.dumps") else b"\x80\x02" + body
    path = _plant(container, tmp_path / "evil.pth", attacking)
    with pytest.raises(UserError, match=r"evil\.pth "):
        read_write.read(path)
    assert not sentinel.exists()
    if container == "zip":  # the attack is a real one: pickle runs it
        pickle.loads(attacking)
        assert sentinel.exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (call(name("os.system"), text("true")), "os.system"),
        (call(text("builtins") + text("eval") + b"\x93", text("1")), "builtins.eval"),
        (text("collections") + text("OrderedDict.__init__") + b"\x93", "collections.OrderedDict.__init__"),
        (text("torch") + text("FloatStorage.__new__") + b"\x93", "torch.FloatStorage.__new__"),
        (text("torch._utils") + text("_rebuild_tensor_v2 ") + b"\x93", "torch._utils._rebuild_tensor_v2 "),
        (name("torch.load"), "torch.load"),
        (name("numpy.core.multiarray._reconstruct"), "numpy.core.multiarray._reconstruct"),
        (name("models.resnet26.ResNet"), "models.resnet26.ResNet"),
    ],
)
def test_the_refused_name_is_in_the_message(
    tmp_path: Path, container: str, body: bytes, refused: str
) -> None:
    path = write_torch(
        container, tmp_path / "evil.pth", program(mapping(weight=vector(12), x=body)), {"0": FLOATS}
    )
    with pytest.raises(UserError) as caught:
        read_write.read(path)
    assert str(caught.value).startswith(f"{path} asks for the Python object {refused}, ")


def test_a_refused_name_cannot_send_control_characters_to_the_terminal(tmp_path: Path) -> None:
    body = text("os\x1b[2J") + text("system" * 100) + b"\x93"
    path = write_zip(tmp_path / "evil.pth", program(body), {})
    with pytest.raises(UserError) as caught:
        read_write.read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "body",
    [
        items(text("module"), name("torch.Size"), text("/etc/passwd"), text("import os")) + b"Q",
        items(text("storage"), name("collections.OrderedDict"), text("0"), text("cpu"), integer(1)) + b"Q",
        items(text("storage"), text("torch FloatStorage"), text("0"), text("cpu"), integer(1)) + b"Q",
        items(text("storage"), name("torch.FloatStorage"), integer(0), text("cpu"), integer(1)) + b"Q",
        text("../../etc/passwd") + b"Q",
        b"P/etc/passwd\n",
        b"S'\\l'\n",
        b"]Q",
        # calls, attributes and items of things that have none
        text("system") + items(text("true")) + b"R",
        name("collections.OrderedDict") + mapping(__setstate__=text("x")) + b"b",
        name("torch._utils._rebuild_tensor_v2") + items(b"N", mapping(__code__=text("x"))) + b"b",
        name("torch.FloatStorage") + items() + b"\x81",
        name("collections.OrderedDict") + text("key") + text("value") + b"s",
        name("torch.Size") + text("x") + b"a",
        call(name("torch._utils._rebuild_parameter"), name("torch.Size")),
        call(name("torch._utils._rebuild_tensor_v2"), name("torch.Size")),
        call(name("collections.OrderedDict"), integer(3)),
        call(name("torch.Size"), text("abc")),
        # a stack, marks and a memo that do not add up
        b"R",
        b"\x87",
        b"t",
        b"h\x09",
        b"]]e",
        b"(" + text("odd") + b"u",
    ],
)
def test_tricks_with_the_machine_are_refused(tmp_path: Path, container: str, body: bytes) -> None:
    tree = program(b"}(" + text("weight") + vector(12) + text("x") + body + b"u")
    path = write_torch(container, tmp_path / "evil.pth", tree, {"0": FLOATS})
    with pytest.raises(UserError, match=r"evil\.pth (is damaged|uses the pickle instruction)"):
        read_write.read(path)


def test_storage_keys_do_not_leave_the_archive(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(FLOATS)
    for key in ("../../secret", str(tmp_path / "secret"), "../../../secret"):
        path = write_zip(tmp_path / "evil.pth", program(mapping(weight=vector(12, key))), {})
        with pytest.raises(UserError, match="damaged"):
            read_write.read(path)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "body",
    [
        b"]r\xff\xff\xff\x7f0" + vector(12),  # a memo slot that makes the C unpickler allocate 64 GiB
        b"B\xff\xff\xff\xff",  # claims 4 GiB of bytes
        b"\x8e" + struct.pack("<Q", 2**62),  # claims 4 EiB of bytes
        b"\x96" + struct.pack("<Q", 2**40),  # bytearray: allocated by C before it is read
        b"\x8b" + struct.pack("<I", 2**31 - 1),  # a number of 2 GiB
    ],
)
def test_claimed_lengths_take_no_memory(tmp_path: Path, container: str, body: bytes) -> None:
    path = write_torch(container, tmp_path / "evil.pth", program(body), {"0": FLOATS})
    with pytest.raises(UserError, match=r"evil\.pth "):
        read_write.read(path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_deep_nesting_does_not_crash(tmp_path: Path, container: str) -> None:
    deep = b")" + b"\x85" * 200_000  # as a dict key, hashing it would overflow the C stack
    tree = program(b"}(" + deep + b"N" + text("weight") + vector(12) + text("deep") + deep + b"u")
    path = write_torch(container, tmp_path / "deep.pth", tree, {"0": FLOATS})
    assert list(read_write.read(path)) == ["weight"]


def test_harmless_companions_of_the_weights_are_passed_over(tmp_path: Path) -> None:
    body = mapping(
        best=pickle.dumps(np.float64(93.25), 2)[2:-1],
        seen=pickle.dumps(np.int64(7), 2)[2:-1],
        args=pickle.dumps(argparse.Namespace(lr=0.1), 2)[2:-1],
        milestones=pickle.dumps(collections.Counter({40: 1}), 2)[2:-1],
        device=call(name("torch.device"), text("cuda"), integer(0)),
        model=several(2),
    )
    assert list(read_tree(tmp_path, body)) == ["w0", "w1"]


# --- files that are something else -------------------------------------------------------------------------


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program(mapping(weight=vector(2**20))))
        archive.writestr("archive/data/0", bytes(2**22))


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def _huge_header(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight.npy", npy)


def _zip_of(path: Path, member: str, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(member, content)


@pytest.mark.parametrize(
    ("filename", "make", "reason"),
    [
        ("absent.pth", lambda p: None, "does not exist"),
        ("folder.pth", lambda p: p.mkdir(), "is a directory"),
        ("notes.txt", lambda p: p.write_text("hello"), "no known suffix"),
        ("nosuffix", lambda p: p.write_bytes(FLOATS), "no known suffix"),
        *[
            (f"empty{suffix}", lambda p: p.write_bytes(b""), "is empty")
            for suffix in (".pth", ".npz", ".safetensors")
        ],
        *[
            (f"page{suffix}", lambda p: p.write_text("\n <!DOCTYPE html><html>Not found"), "is a web page")
            for suffix in (".pth", ".npz", ".safetensors")
        ],
        ("pointer.bin", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        ("noise.pth", lambda p: p.write_bytes(b"\x01\x02\x03" * 99), "not a file of torch.save"),
        ("noise2.pth", lambda p: p.write_bytes(b"\x80" * 99), "damaged"),
        ("noise.npz", lambda p: p.write_bytes(b"\x01\x02\x03" * 99), "no intact .npz"),
        ("noise.safetensors", lambda p: p.write_bytes(b"\x01\x02\x03" * 99), "no intact safetensors"),
        ("old.pth", _tar, "tar archive"),
        ("plain.pth", lambda p: p.write_bytes(pickle.dumps({"weight": 1})), "not one of torch.save"),
        ("arrays.pth", lambda p: _zip_of(p, "a.npy", FLOATS), "not one of torch.save"),
        ("torch.npz", lambda p: write_zip(p, program(several(1)), {"0": FLOATS}), "not one of NumPy arrays"),
        ("packed.pth", _compressed, "compressed"),
        (
            "order.pth",
            lambda p: write_zip(p, program(several(1)), {}, ("archive/byteorder", b"?")),
            "damaged",
        ),
        ("number.pth", lambda p: write_zip(p, program(integer(1)), {}), "no dict of tensors"),
        ("bare.pth", lambda p: write_zip(p, program(vector(12)), {"0": FLOATS}), "no dict of tensors"),
        ("nothing.pth", lambda p: write_zip(p, program(b"}"), {}), "no dict of tensors"),
        ("nothing.npz", lambda p: zipfile.ZipFile(p, "w").close(), "holds no arrays"),
        ("nothing.safetensors", lambda p: p.write_bytes(safetensors.numpy.save({})), "holds no arrays"),
        ("version.pth", lambda p: p.write_bytes(MAGIC + program(integer(7)) + SYSTEM), "unknown version"),
        (
            "long.npz",
            lambda p: np.savez(p, a=np.zeros(1, [(f"f{i}", "f4") for i in range(2000)])),
            "Header info",
        ),
        ("objects.npz", lambda p: np.savez(p, a=np.array([{}], object)), "no intact .npz"),
        ("words.npz", lambda p: np.savez(p, a=np.array(["x"])), "holds 'a' as <U1"),
        ("brain.npz", lambda p: np.savez(p, a=np.ones(2, ml_dtypes.bfloat16)), "holds 'a' as"),
        ("header.npz", _huge_header, "(no intact .npz|more memory)"),
        ("bomb.npz", lambda p: _zip_of(p, "a.npy", bytes(2**27), zipfile.ZIP_DEFLATED), "absurdly"),
        ("lzma.npz", lambda p: _zip_of(p, "a.npy", b"x", zipfile.ZIP_LZMA), "numpy.savez"),
        (
            "eight.safetensors",
            lambda p: p.write_bytes(safetensors.numpy.save({"a": np.ones(4, ml_dtypes.float8_e4m3fn)})),
            "holds 'a' as F8_E4M3",
        ),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    tmp_path: Path, filename: str, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / filename
    make(path)
    with pytest.raises(UserError, match=reason) as caught:
        read_write.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("filename", "reason"),
    [("whole_module.pth", "torch.nn.modules.linear.Linear"), ("torchscript.pt", "TorchScript")],
)
def test_pickled_modules_and_programs_of_torch_are_refused(filename: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_write.read(GOLDEN / filename)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same few arrays in every format, by suffix; `_legacy.pth` is the old container."""
    folder = tmp_path_factory.mktemp("intact")
    arrays = {"a": np.arange(5, dtype=np.float32), "b": np.ones((2, 3), np.int64)}
    for suffix in (".npz", ".safetensors"):
        read_write.write(folder / f"model{suffix}", arrays)
    model = mapping(a=vector(5), b=tensor(storage("1", 6), 0, (2, 3), (3, 1)))
    momentum = vector(3, "2")  # read by nobody, but its loss means that the file is cut short
    tree = program(mapping(model=model, optimizer=mapping(state=momentum, param_groups=b"]")))
    storages = {"0": FLOATS[:20], "1": FLOATS[:24], "2": FLOATS[:12]}
    write_zip(folder / "model.pth", tree, storages)
    write_legacy(folder / "model_legacy.pth", tree, storages)
    suffixes = (".npz", ".safetensors", ".pth", "_legacy.pth")
    return {suffix: (folder / f"model{suffix}").read_bytes() for suffix in suffixes}


FORMATS = [".npz", ".safetensors", ".pth", "_legacy.pth"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_truncation_is_noticed(tmp_path: Path, intact: dict[str, bytes], suffix: str) -> None:
    path = tmp_path / f"short{suffix}"
    path.write_bytes(intact[suffix])
    read_write.read(path)
    for length in range(len(intact[suffix])):
        path.write_bytes(intact[suffix][:length])
        with pytest.raises(UserError):
            read_write.read(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_damage_never_raises_anything_but_user_errors(
    tmp_path: Path, intact: dict[str, bytes], suffix: str
) -> None:
    path = tmp_path / f"damaged{suffix}"
    random = np.random.default_rng(0)
    refusals = 0
    for trial in range(400):
        damaged = np.frombuffer(intact[suffix], np.uint8).copy()
        places = random.integers(len(damaged), size=1 + trial % 3)
        damaged[places] = random.integers(256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            read_write.read(path)
        except UserError:
            refusals += 1
    assert refusals > 30


# --- writing -----------------------------------------------------------------------------------------------

WRITABLE_DTYPES = ["?", "u1", "i1", "<u2", ">i2", "<u4", "i4", "<u8", ">i8", "f2", "<f4", ">f4", "f8", "c8"]
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).filter(
    lambda name: name != "__metadata__" and not name.startswith(("module.", "_orig_mod."))
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    state=st.dictionaries(
        NAMES,
        st.sampled_from(WRITABLE_DTYPES).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
        ),
        min_size=1,
        max_size=4,
    ),
    transpose=st.booleans(),
    suffix=st.sampled_from([".npz", ".safetensors"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray], transpose: bool, suffix: str
) -> None:
    if transpose:
        state = {name: array.T[..., ::-1] if array.ndim else array for name, array in state.items()}
    path = tmp_path_factory.getbasetemp() / f"state{suffix}"
    read_write.write(path, state)
    actual = read_write.read(path)
    expected = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in state.items()}
    assert_same_state({name: actual[name] for name in expected}, expected)
    assert len(actual) == len(expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_awkward_names_survive(tmp_path: Path, suffix: str) -> None:
    names = [
        "file",
        "allow_pickle",
        "a",
        "a.npy",
        "params/block_01/kernel",
        "back\\slash",
        "../up",
        "größe",
        "",
    ]
    state = {name: np.full(1, index) for index, name in enumerate(names)}
    read_write.write(tmp_path / f"state{suffix}", state)
    actual = read_write.read(tmp_path / f"state{suffix}")
    assert {name: int(array[0]) for name, array in actual.items()} == dict(zip(names, range(9), strict=True))


def test_numpy_and_safetensors_read_what_is_written(tmp_path: Path) -> None:
    state = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(True)}
    for suffix, load in ((".npz", np.load), (".safetensors", safetensors.numpy.load_file)):
        read_write.write(tmp_path / f"state{suffix}", state)
        loaded = load(tmp_path / f"state{suffix}")
        assert sorted(loaded) == ["a", "b"]
        for name, array in state.items():
            np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_npz_files_of_numpy_are_read(tmp_path: Path) -> None:
    state = {"weight": np.arange(6, dtype=">f4").reshape(2, 3), "bias": np.asfortranarray(np.eye(2))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "state.npz", **state)
        expected = {"weight": state["weight"].astype(np.float32), "bias": np.eye(2)}
        assert_same_state(read_write.read(tmp_path / "state.npz"), expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_bfloat16_is_written_as_float32(tmp_path: Path, suffix: str) -> None:
    read_write.write(tmp_path / f"state{suffix}", {"a": np.array([1.5, -2.0], ml_dtypes.bfloat16)})
    expected = {"a": np.array([1.5, -2.0], np.float32)}
    assert_same_state(read_write.read(tmp_path / f"state{suffix}"), expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_same_state_gives_the_same_bytes(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{index}{suffix}" for index in range(2)]
    for path, now in zip(paths, (1e9, 1.5e9), strict=True):
        monkeypatch.setattr("time.time", lambda now=now: now)
        read_write.write(path, {"a": np.ones(3)})
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"state{suffix}"
    read_write.write(path, {"a": np.ones(3)})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match="No space left"):
            read_write.write(path, {"a": np.zeros(3)})
    assert read_write.read(path)["a"].tolist() == [1.0, 1.0, 1.0]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_reader_of_the_old_file_is_not_disturbed_by_a_write(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"state{suffix}"
    read_write.write(path, {"a": np.ones(3)})
    old = path.read_bytes()
    with path.open("rb") as reader:
        read_write.write(path, {"a": np.zeros(3)})
        assert reader.read() == old
    assert read_write.read(path)["a"].tolist() == [0.0, 0.0, 0.0]


def test_unwritable_places_and_formats_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"state\.pth: weights are written to"):
        read_write.write(tmp_path / "state.pth", {"a": np.ones(3)})
    with pytest.raises(UserError, match="cannot be written"):
        read_write.write(tmp_path / "absent" / "state.npz", {"a": np.ones(3)})


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, "empty state"),
        ({"a": np.array([{}], object)}, "'a' has dtype object"),
        ({"a": np.array(["x"])}, "'a' has dtype <U1"),
        ({"a": np.ones(1, np.complex128)}, "complex128"),
        ({"a": np.ones(1, np.longdouble)}, "longdouble|float128"),
        ({"__metadata__": np.ones(1)}, "__metadata__"),
        ({"a\0b": np.ones(1)}, "cannot be the name"),
        ({"\ud800": np.ones(1)}, "cannot be the name"),
        ({3: np.ones(1)}, "3 cannot be the name"),
    ],
)
def test_states_that_no_file_can_hold_are_value_errors(tmp_path: Path, state: dict, reason: str) -> None:
    for suffix in (".npz", ".safetensors"):
        with pytest.raises(ValueError, match=reason):
            read_write.write(tmp_path / f"state{suffix}", state)
    assert not os.listdir(tmp_path)
