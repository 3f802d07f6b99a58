"""The check of a data set finds what is planted in it, and nothing in a clean one."""

import numpy as np
import pytest
from PIL import Image

from finetune_jax.data import sources
from finetune_jax.data.check import check, format_report


def save(path, number: int, *, size: tuple[int, int] = (6, 4)) -> None:
    """A lossless picture whose pixels depend on `number` and `size`, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def clean(tmp_path):
    number = 0
    for split, count in (("train", 12), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(count):
                number += 1
                save(tmp_path / split / name / f"{i}.png", number)
    return tmp_path


def report_on(root, **options):
    return check(sources.load(f"folder:{root}", list_findings=True), workers=2, **options)


def test_a_clean_data_set_has_no_findings(clean):
    report = report_on(clean)
    assert report.ok
    assert (report.unreadable, report.small_classes, report.duplicates) == ((), (), ())
    assert {split: counts.tolist() for split, counts in report.counts.items()} == {
        "train": [12, 12],
        "validation": [2, 2],
        "test": [3, 3],
    }
    text = format_report(report)
    assert text.splitlines()[0] == f"folder:{clean}: 2 classes, 24 train, 4 validation, 6 test images"
    assert text.splitlines()[-1] == "No problems found."
    assert "unreadable images: none" in text


def test_unreadable_files_are_listed_with_their_reason(clean):
    data = (clean / "train" / "cat" / "3.png").read_bytes()
    (clean / "train" / "cat" / "3.png").write_bytes(data[: len(data) // 2])
    (clean / "test" / "dog" / "0.png").write_bytes(b"")
    report = report_on(clean)
    assert not report.ok
    places = [(place.split, place.name, place.class_name) for place, _ in report.unreadable]
    assert places == [
        ("train", str(clean / "train" / "cat" / "3.png"), "cat"),
        ("test", str(clean / "test" / "dog" / "0.png"), "dog"),
    ]
    assert report.unreadable[1][1] == "empty file"
    text = format_report(report)
    assert "unreadable images: 2\n" in text
    assert f"  test {clean / 'test' / 'dog' / '0.png'} (dog): empty file\n" in text
    assert text.endswith("There are problems, see above.")


def test_small_classes_are_those_below_the_threshold(clean):
    assert report_on(clean, min_images=12).small_classes == ()
    report = report_on(clean, min_images=13)
    assert report.small_classes == (("cat", 12), ("dog", 12))
    assert not report.ok
    assert "fewer than 13 training images: 2\n  cat: 12\n  dog: 12\n" in format_report(report)


def test_classes_that_are_not_trained_on_need_no_training_images():
    report = check(sources.load("digits", protocol="retrieval", validation_fraction=0.0))
    assert report.small_classes == ()
    assert report.counts["train"][5:].sum() == report.counts["test"][:5].sum() == 0


def test_copies_across_splits_are_found_by_their_pixels_not_their_bytes(clean):
    image = Image.open(clean / "train" / "cat" / "0.png")
    image.save(clean / "test" / "cat" / "copy.bmp")
    (group,) = report_on(clean).duplicates
    assert [place.split for place in group.places] == ["train", "test"]
    assert group.across_splits
    assert not group.contradictory
    report = report_on(clean)
    assert not report.ok
    assert "images that are in more than one split: 1\n" in format_report(report)
    assert "images that are more than once in a split: none\n" in format_report(report)


def test_the_same_image_with_two_classes_is_a_contradiction(clean):
    save(clean / "train" / "cat" / "x.png", 500)
    save(clean / "train" / "dog" / "x.png", 500)
    report = report_on(clean)
    assert [group.contradictory for group in report.duplicates] == [True]
    assert not report.ok


def test_copies_within_one_class_and_split_are_listed_but_no_problem(clean):
    for name in "xyz":
        save(clean / "train" / "cat" / f"{name}.png", 500)
    report = report_on(clean)
    assert [len(group.places) for group in report.duplicates] == [3]
    assert report.ok
    assert "images that are more than once in a split: 1\n" in format_report(report)


def test_images_of_the_same_bytes_but_another_shape_are_no_copies(clean):
    for name, size in (("wide", (6, 2)), ("high", (2, 6))):
        Image.new("RGB", size, "red").save(clean / "train" / "cat" / f"{name}.png")
    assert report_on(clean).duplicates == ()


def test_sizes_are_those_of_the_upright_images(tmp_path):
    for i, size in enumerate([(10, 20), (30, 20), (40, 20), (50, 100), (60, 20)]):
        for name in "ab":
            save(tmp_path / name / f"{i}.png", 10 * i + ord(name), size=size)
    report = report_on(tmp_path, min_images=1)
    widths, heights, aspects = report.widths, report.heights, report.aspects
    assert (widths.minimum, widths.median, widths.maximum) == (10, 40, 60)
    assert (heights.minimum, heights.median, heights.maximum) == (20, 20, 100)
    assert (aspects.minimum, aspects.median, aspects.maximum) == (0.5, 1.5, 3.0)
    assert "width               10      40      60\n" in format_report(report)
    assert "width/height      0.50    1.50    3.00\n" in format_report(report)


def test_long_lists_are_cut_in_the_text_but_not_in_the_report(clean):
    for i in range(30):
        (clean / "train" / "cat" / f"bad{i:02}.png").write_bytes(b"no image")
    report = report_on(clean)
    assert len(report.unreadable) == 30
    text = format_report(report)
    assert text.count("not a known image format") == 20
    assert "  and 10 more\n" in text


def test_the_table_counts_the_images_of_every_class(clean):
    lines = format_report(report_on(clean)).splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("images  "))
    assert lines[header].split() == ["images", "train", "validation", "test"]
    assert [line.split() for line in lines[header + 1 : header + 3]] == [
        ["cat", "12", "2", "3"],
        ["dog", "12", "2", "3"],
    ]


def test_a_data_set_of_unreadable_images_alone_still_gives_a_report(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(b"")
    report = report_on(tmp_path, min_images=1)
    assert len(report.unreadable) == 6
    assert np.isnan(report.widths.median)
    assert "nan" in format_report(report)
