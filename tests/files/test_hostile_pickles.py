"""Pickles that would run code, take the memory or leave the archive: refused."""

import argparse
import collections
import copyreg
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch_containers import (
    CONTAINERS,
    FLOATS,
    call,
    integer,
    items,
    mapping,
    name,
    program,
    read_tree,
    several,
    text,
    vector,
    write_legacy,
    write_torch,
    write_zip,
)

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write


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
        (name("builtins.getattr"), "builtins.getattr"),
        (name("torch.hub.load"), "torch.hub.load"),
        (name("runpy.run_path"), "runpy.run_path"),
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
