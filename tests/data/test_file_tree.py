"""Whatever lies in a folder of images: what is left out is told, nothing hangs, nothing is entered twice."""

import os
import stat
import time

import pytest
from folders import picture, write

from finetune_jax.data import file_tree, folder, sources
from finetune_jax.data.decode import UnreadableImage, read_image
from finetune_jax.errors import UserError

CLASSES = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]


def names_of(root) -> list[str]:
    source = sources.load(f"folder:{root}", test_fraction=0.0, validation_fraction=0.0)
    return [os.path.relpath(name, root) for name in source.splits["train"].names]


def notes_of(root) -> str:
    return " ".join(sources.load(f"folder:{root}", test_fraction=0.0, validation_fraction=0.0).notes)


@pytest.mark.parametrize(
    "system",
    [
        "__MACOSX",
        "@eaDir",
        "$RECYCLE.BIN",
        "lost+found",
        "System Volume Information",
        "Thumbs",
        "#recycle",
        "@Recycle",
        "found.000",
        "__pycache__",
    ],
)
def test_folders_that_systems_and_tools_make_are_left_out_with_a_note(tmp_path, system):
    write(tmp_path, [*CLASSES, f"{system}/cat/1.png", f"cat/{system}/2.png", f"dog/deep/{system}/x/3.png"])
    assert names_of(tmp_path) == CLASSES
    assert f"3 folders that systems and tools make were left out ({system} 3)" in notes_of(tmp_path)


def test_hidden_system_folders_are_left_out(tmp_path):
    write(tmp_path, [*CLASSES, ".Trash-1000/files/1.png", "cat/.ipynb_checkpoints/0.png", ".DS_Store/x.png"])
    assert names_of(tmp_path) == CLASSES


@pytest.mark.parametrize("beside", ["metrics.csv", "summary.json", "data.npz"])
def test_directories_of_runs_are_never_classes(tmp_path, beside):
    write(tmp_path, [*CLASSES, "run/confusion.png", "study/curve.png", "study/runs/first/curves.png"])
    for run in ("run", "study/runs/first"):
        (tmp_path / run / "flags.json").write_text("{}")
        (tmp_path / run / beside).write_text("")
    assert names_of(tmp_path) == CLASSES
    assert f"2 directories of runs were left out ({tmp_path / 'run'}, …)" in notes_of(tmp_path)


def test_paths_inside_the_folder_of_the_images_are_known_by_whatever_name(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    dataset = f"folder:{tmp_path / 'data'}"
    assert folder.contains(dataset, tmp_path / "data" / "runs" / "a")
    assert folder.contains(dataset, tmp_path / "link" / "a")
    assert not folder.contains(dataset, tmp_path / "data2")
    assert not folder.contains("digits", tmp_path)
    assert not folder.contains("folder:", os.path.abspath("runs"))


def test_devices_and_pipes_are_left_out_unread(tmp_path):
    write(tmp_path, CLASSES)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "link.jpg").symlink_to("pipe.png")
    (tmp_path / "dog" / "zero.jpg").symlink_to("/dev/zero")
    began = time.monotonic()
    assert names_of(tmp_path) == CLASSES
    assert "3 devices, pipes or sockets were left out" in notes_of(tmp_path)
    for name in ("cat/pipe.png", "cat/link.jpg", "dog/zero.jpg"):
        with pytest.raises(UnreadableImage, match="not a regular file"):
            read_image(tmp_path / name)
    assert time.monotonic() - began < 5


def test_folders_linked_in_many_circles_are_entered_once(tmp_path):
    write(tmp_path, CLASSES)
    for number in range(12):
        inner = tmp_path / "cat" / f"f{number:02}"
        inner.mkdir()
        (inner / "1.png").write_bytes(picture(number))
        for other in range(12):
            (inner / f"to{other:02}").symlink_to(tmp_path / "cat" / f"f{other:02}")
    began = time.monotonic()
    assert len(names_of(tmp_path)) == len(CLASSES) + 12
    assert time.monotonic() - began < 5


def test_folders_nested_too_deep_are_refused_by_name(tmp_path):
    write(tmp_path, CLASSES)
    (tmp_path / "cat" / os.path.join(*["d"] * 90)).mkdir(parents=True)
    with pytest.raises(
        UserError, match=rf"lies in {file_tree.DEEPEST} folders below .*cat: move its images up"
    ):
        names_of(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_link_to_a_forbidden_place_is_named(tmp_path):
    write(tmp_path, CLASSES)
    secret = tmp_path / "secret"
    (secret / "x").mkdir(parents=True)
    (tmp_path / "cat" / "more").symlink_to(secret / "x")
    secret.chmod(0)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            names_of(tmp_path)
    finally:
        secret.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch, call):
    write(tmp_path, CLASSES)
    function = getattr(os, call)

    def refuse(path, *arguments, **keywords):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return function(path, *arguments, **keywords)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UserError, match=r"dog: Permission denied; make it readable or remove it"):
        names_of(tmp_path)


def test_skipped_files_are_counted_by_suffix_and_heic_gets_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.formats, "suffixes", lambda: frozenset({".png"}))
    monkeypatch.setattr(file_tree, "suffixes", lambda: frozenset({".png"}))
    write(tmp_path, [*CLASSES, "cat/1.HEIC", "cat/2.heic", "dog/notes.txt"])
    notes = notes_of(tmp_path)
    assert "3 files are no images by their suffix and were left out (.heic 2, .txt 1)" in notes
    assert (
        '2 images cannot be read (.heic 2): install pillow-heif (pip install "finetune-jax[heif]")' in notes
    )


def test_names_with_newlines_tabs_and_foreign_bytes_are_escaped(tmp_path):
    write(tmp_path, CLASSES)
    for odd in (b"new\nline.png", b"tab\there.png", b"latin\xe9.png"):
        with open(os.fsencode(tmp_path / "dog") + b"/" + odd, "wb") as file:
            file.write(picture(9))
    names = names_of(tmp_path)
    assert names[-3:] == ["dog/latin\\xe9.png", "dog/new\\nline.png", "dog/tab\\there.png"]
