"""What lies beside the weights in a file of torch: put aside unread, never made, and at bounded cost."""

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import random
import struct
import sys
import time
import tracemalloc
import types
import uuid
from pathlib import Path

import numpy as np
import pytest
from torch_containers import FLOATS, mapping, program, read_tree, several, text, vector, write_zip

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write


class _Settings:
    """A class that exists where the file was made, and here, and must not be looked up."""

    made = 0

    def __init__(self) -> None:
        self.rate = 0.1

    def __setstate__(self, state: object) -> None:
        type(self).made += 1


class _Phase(enum.Enum):
    TRAIN = "train"


OBJECTS = {
    "path": pathlib.PurePosixPath("/data/photos"),
    "set": {"a", "b"},
    "frozen set": frozenset({1, 2}),
    "date": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
    "interval": datetime.timedelta(hours=2),
    "namespace": argparse.Namespace(lr=0.1, paths=[pathlib.PurePosixPath("x")]),
    "simple namespace": types.SimpleNamespace(a=1),
    "state of random": random.Random(0).getstate(),
    "generator": random.Random(0),
    "state of NumPy": np.random.RandomState(0).get_state(),
    "generator of NumPy": np.random.default_rng(0),
    "array": np.arange(12.0).reshape(3, 4),
    "structured array": np.zeros(3, [("a", "f4"), ("b", "i8")]),
    "scalar": np.float64(93.25),
    "dtype": np.dtype("f4"),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=7),
    "deque": collections.deque([1.0, 2.0], maxlen=3),
    "default dict": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("abc"),
    "enumeration": _Phase.TRAIN,
    "object of the project": _Settings(),
    "complex number": 1 + 2j,
    "bytes": b"\x00\x01",
    "byte array": bytearray(b"\x00\x01"),
    "range": range(3),
    "large number": 10**30,
    "class": pathlib.PurePosixPath,
    "function": np.mean,
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_beside_the_weights_are_put_aside(tmp_path: Path, kind: str, protocol: int) -> None:
    content = pickle.dumps(OBJECTS[kind], protocol)
    start = 2 if protocol < 4 else 11  # behind the protocol, and the frame from 4 on
    start = 2 if content[2:3] != b"\x95" else start
    _Settings.made = 0
    state = read_tree(tmp_path, mapping(model=several(2), beside=content[start:-1]))
    assert list(state) == ["w0", "w1"]
    assert _Settings.made == 0


def test_nothing_is_imported_for_what_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "trap_beside.py").write_text("raise AssertionError('imported')")
    body = mapping(model=several(2), beside=b"ctrap_beside\nSettings\n)\x81}b")
    sys.path.insert(0, str(tmp_path))
    try:
        assert list(read_tree(tmp_path, body)) == ["w0", "w1"]
    finally:
        sys.path.remove(str(tmp_path))
    assert "trap_beside" not in sys.modules


def test_a_whole_pickled_model_says_what_to_save(tmp_path: Path) -> None:
    body = b"cmodels.resnet26\nResNet\n)\x81" + mapping(conv=vector(12)) + b"b"
    with pytest.raises(
        UserError, match=r"pickled object of models\.resnet26\.ResNet .* save its state_dict\(\)"
    ):
        read_tree(tmp_path, body)


def test_a_weight_in_a_form_that_is_not_understood_is_named(tmp_path: Path) -> None:
    sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n)R"
    with pytest.raises(UserError, match=r"holds fc\.weight by torch\._utils\._rebuild_sparse_tensor"):
        read_tree(tmp_path, mapping(**{"conv.weight": vector(12), "fc.weight": sparse}))


def test_averaged_weights_beside_the_usual_ones_are_told_and_can_be_chosen(tmp_path: Path) -> None:
    body = mapping(epoch=b"K\x03", state_dict=several(3), state_dict_ema=several(3, "e"))
    path = write_zip(tmp_path / "checkpoint.pth", program(body), {"0": FLOATS})
    usual = read_write.read_entry(path)
    assert (list(usual.state), usual.entry, usual.others) == (
        ["w0", "w1", "w2"],
        "state_dict",
        ("state_dict_ema",),
    )
    chosen = read_write.read_entry(path, "state_dict_ema")
    assert (list(chosen.state), chosen.entry) == (["e0", "e1", "e2"], "state_dict_ema")


def test_rivals_are_chosen_between_by_their_names(tmp_path: Path) -> None:
    body = mapping(student=several(3), teacher=mapping(backbone=several(4, "t")))
    path = write_zip(tmp_path / "checkpoint.pth", program(body), {"0": FLOATS})
    with pytest.raises(UserError, match=r"--weights_entry=NAME"):
        read_write.read_entry(path)
    for entry in ("teacher", "teacher.backbone", "backbone"):
        assert list(read_write.read_entry(path, entry).state) == ["t0", "t1", "t2", "t3"]


def _copies(count: int) -> bytes:
    """A dict of ``count`` entries, copied ``count`` times: the square of it in a file of 12 bytes for each."""
    entries = b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(count))
    return b"](}q\x00(" + entries + b"uccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R" * count + b"e"


def _sizes(count: int) -> bytes:
    return b"](](" + b"K\x01" * count + b"eq\x00ctorch\nSize\nq\x01" + b"h\x01h\x00\x85R" * count + b"e"


def _names(count: int) -> bytes:
    long = b"X" + struct.pack("<I", 60_000) + b"a" * 60_000 + b"q\x00"
    return b"](" + long + text("x") + b"q\x01" + b"h\x00h\x01\x93" * count + b"e"


@pytest.mark.parametrize("make", [_copies, _sizes, _names])
def test_repeated_constructors_cost_no_more_than_the_file(tmp_path: Path, make: object) -> None:
    path = write_zip(tmp_path / "bomb.pth", program(make(6000)), {})  # type: ignore[operator]
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(UserError, match=r"bomb\.pth (copies the same values|is damaged)"):
        read_write.read(path)
    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
