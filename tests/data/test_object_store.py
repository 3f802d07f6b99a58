"""A folder on an object store, here one in memory: a local copy that follows it."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune_jax.data import object_store, sources
from finetune_jax.errors import UserError

fsspec = pytest.importorskip("fsspec")
ADDRESS = "memory://bucket/photos"


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def store() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    for label, name in enumerate(("cats", "dogs")):
        for number in range(3):
            system.pipe(f"/bucket/photos/{name}/{number}.png", png(40 * number + label))
    system.pipe("/bucket/other/x.png", png(9))
    yield system
    system.store.clear()


def downloads(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    taken: list[str] = []
    whole = type(store).cat_file
    monkeypatch.setattr(
        type(store), "cat_file", lambda self, path, **more: taken.append(path) or whole(self, path, **more)
    )
    return taken


def test_the_copy_takes_what_is_new_or_changed_and_drops_what_is_gone(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = downloads(store, monkeypatch)
    root = object_store.local_copy(ADDRESS, tmp_path)
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    assert files == [f"{name}/{number}.png" for name in ("cats", "dogs") for number in range(3)]
    assert (root / "dogs" / "2.png").read_bytes() == png(81)
    assert len(taken) == 6

    assert object_store.local_copy(ADDRESS, tmp_path) == root
    assert len(taken) == 6

    store.pipe("/bucket/photos/cats/0.png", png(200))
    store.rm("/bucket/photos/dogs/1.png")
    (root / "dogs" / "2.png").unlink()
    object_store.local_copy(ADDRESS, tmp_path)
    assert sorted(taken[6:]) == ["/bucket/photos/cats/0.png", "/bucket/photos/dogs/2.png"]
    assert (root / "cats" / "0.png").read_bytes() == png(200)
    assert not (root / "dogs" / "1.png").exists()


def test_a_data_set_on_a_store_is_that_of_the_folder(store: Any, tmp_path: Path) -> None:
    found = sources.load(f"folder:{ADDRESS}", cache_dir=tmp_path / "cache", test_fraction=0.4)
    copy = tmp_path / "plain"
    for path in store.find("/bucket/photos"):
        target = copy / path.removeprefix("/bucket/photos/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.cat_file(path))
    expected = sources.load(f"folder:{copy}", cache_dir=tmp_path / "cache2", test_fraction=0.4)
    assert found.fingerprint == expected.fingerprint
    assert found.class_names == ("cats", "dogs")


def test_what_arrives_damaged_is_not_kept(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(store), "cat_file", lambda self, path, **more: b"cut")
    with pytest.raises(UserError, match=r"cats/\d.png arrived with other content than the store lists"):
        object_store.local_copy(ADDRESS, tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_a_sum_that_the_store_tells_is_compared(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = type(store).find
    monkeypatch.setattr(
        type(store),
        "find",
        lambda self, path, **more: {
            name: {**info, "ETag": '"' + "0" * 32 + '"'} for name, info in listed(self, path, **more).items()
        },
    )
    with pytest.raises(UserError, match="other content"):
        object_store.local_copy(ADDRESS, tmp_path)


@pytest.mark.parametrize(
    ("address", "cache", "message"),
    [
        ("memory://bucket/nothing", True, "there is nothing below that address"),
        (ADDRESS, False, "--cache_dir, which is empty"),
    ],
)
def test_a_mistake_is_named(store: Any, tmp_path: Path, address: str, cache: bool, message: str) -> None:
    with pytest.raises(UserError, match=f"--dataset=folder:{address}.*{message}"):
        object_store.local_copy(address, tmp_path if cache else None)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        UserError, match=r"s3://bucket/x needs a library .* pip install 'finetune-jax\[stores\]'"
    ):
        object_store.local_copy("s3://bucket/x", tmp_path)
