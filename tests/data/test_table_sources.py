"""Images listed in a table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune_jax.data import record, sources
from finetune_jax.errors import UserError


def write(folder: Path, rows: list[str], header: str = "image,label", name: str = "table.csv") -> str:
    """A table and the images it names, each of a colour of its own."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return f"csv:{folder / name}"


def images(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)).save(folder / name)


def numbered(
    count: int, *, suffix: str = ".png", classes: tuple[str, ...] = ("cat", "dog")
) -> list[tuple[str, str]]:
    return [(f"{index:02d}{suffix}", classes[index % len(classes)]) for index in range(count)]


def labels_of(source, split: str) -> dict[str, str]:
    examples = source.splits[split]
    return {
        Path(n).name: source.class_names[label]
        for n, label in zip(examples.names, examples.labels, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "delimiter", "header"),
    [
        ("a.csv", ",", ("image", "label")),
        ("a.csv", ";", ("Filename", "Species")),
        ("a.tsv", "\t", ("file_name", "class")),
        ("a.txt", " ", ("path", "target")),
    ],
)
def test_every_image_gets_the_label_beside_it(
    tmp_path: Path, name: str, delimiter: str, header: tuple[str, str]
) -> None:
    rows = numbered(20)
    images(tmp_path, [image for image, _ in rows])
    dataset = write(tmp_path, [delimiter.join(row) for row in rows], delimiter.join(header), name)
    source = sources.load(dataset)
    assert source.class_names == ("cat", "dog")
    found = {k: v for split in ("train", "validation", "test") for k, v in labels_of(source, split).items()}
    assert found == dict(rows)
    assert any(f"image={header[0]}, label={header[1]}" in note for note in source.notes)
    first = source.splits["train"]
    np.testing.assert_array_equal(first.read(0), np.asarray(Image.open(first.names[0])))


def test_columns_may_be_named_and_paths_count_from_the_image_root(tmp_path: Path) -> None:
    rows = numbered(12)
    images(tmp_path / "pictures", [image for image, _ in rows])
    dataset = write(tmp_path / "tables", [f"x,{i},{c}" for i, c in rows], "label,photo,kind")
    columns = ("image=photo", "label=kind")
    source = sources.load(dataset, columns=columns, image_root=str(tmp_path / "pictures"))
    assert labels_of(source, "train").items() <= dict(rows).items()
    assert not any("guessed" in note for note in source.notes)
    with pytest.raises(UserError, match=r"row 2 names 00\.png and 11 more.*give --image_root=FOLDER"):
        sources.load(dataset, columns=columns)


def test_the_split_column_is_understood_in_its_common_spellings(tmp_path: Path) -> None:
    rows = numbered(12)
    images(tmp_path, [image for image, _ in rows])
    splits = ["Training", "valid", "TEST"]
    dataset = write(
        tmp_path, [f"{i},{c},{splits[n // 2 % 3]}" for n, (i, c) in enumerate(rows)], "image,label,split"
    )
    source = sources.load(dataset)
    assert {split: len(examples) for split, examples in source.splits.items()} == {
        "train": 4,
        "validation": 4,
        "test": 4,
    }
    with pytest.raises(
        UserError, match="row 2 is of the split holdout, which is none of train, validation and test"
    ):
        sources.load(write(tmp_path, [f"{i},{c},holdout" for i, c in rows], "image,label,split"))


def test_groups_stay_on_one_side_and_do_not_move_when_the_table_grows(tmp_path: Path) -> None:
    rows = [(image, label, f"p{index // 4}") for index, (image, label) in enumerate(numbered(80))]
    images(tmp_path, [image for image, _, _ in rows])

    def sides(count: int) -> dict[str, set[str]]:
        dataset = write(tmp_path, [",".join(row) for row in rows[:count]], "image,label,patient")
        source = sources.load(dataset, group_by="patient", test_fraction=0.3)
        patients = {image: patient for image, _, patient in rows}
        return {
            split: {patients[Path(name).name] for name in examples.names}
            for split, examples in source.splits.items()
        }

    before, after = sides(60), sides(80)
    for split in ("train", "validation", "test"):
        assert before[split]
        assert before[split] <= after[split]
        for other in {"train", "validation", "test"} - {split}:
            assert not after[split] & after[other]


def test_a_group_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    rows = [(i, c, "train" if n < 6 else "test", "same") for n, (i, c) in enumerate(numbered(12))]
    images(tmp_path, [row[0] for row in rows])
    dataset = write(tmp_path, [",".join(row) for row in rows], "image,label,split,site")
    with pytest.raises(UserError, match="the group same is in the splits train and test"):
        sources.load(dataset, group_by="site")


def test_images_of_one_folder_are_a_group_of_a_folder_data_set(tmp_path: Path) -> None:
    names = [f"{label}/site{site}/{n}.png" for label in ("cat", "dog") for site in range(8) for n in range(3)]
    images(tmp_path / "photos", names)
    source = sources.load(f"folder:{tmp_path / 'photos'}", group_by="folder", test_fraction=0.3)
    places = [{str(Path(name).parent) for name in examples.names} for examples in source.splits.values()]
    assert sum(map(len, places)) == len(set.union(*places)) == 16


def test_few_images_per_class_are_among_the_more(tmp_path: Path) -> None:
    rows = numbered(60)
    images(tmp_path, [image for image, _ in rows])
    dataset = write(tmp_path, [",".join(row) for row in rows])
    whole = sources.load(dataset)
    few, more = (sources.load(dataset, images_per_class=count) for count in (2, 5))
    assert set(labels_of(few, "train")) < set(labels_of(more, "train")) < set(labels_of(whole, "train"))
    assert np.bincount(few.splits["train"].labels).tolist() == [2, 2]
    assert labels_of(few, "test") == labels_of(whole, "test")


def test_numbers_as_classes_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    rows = numbered(36, classes=("10", "9", "2"))
    images(tmp_path, [image for image, _ in rows])
    assert sources.load(write(tmp_path, [",".join(row) for row in rows])).class_names == ("2", "9", "10")


def test_a_suffix_that_the_table_leaves_out_is_added(tmp_path: Path) -> None:
    rows = numbered(12, suffix="")
    images(tmp_path, [f"{image}.jpg" for image, _ in rows])
    source = sources.load(write(tmp_path, [",".join(row) for row in rows], "image_id,breed"))
    assert all(name.endswith(".jpg") for name in source.splits["train"].names)


def test_weights_are_those_of_the_named_column_and_a_part_of_the_data(tmp_path: Path) -> None:
    rows = numbered(20)
    images(tmp_path, [image for image, _ in rows])
    weights = {image: 0.25 * number for number, (image, _) in enumerate(rows)}
    lines = [f"{image},{label},{weights[image]:g},{label}" for image, label in rows]
    dataset = write(tmp_path, lines, "image,label,weight,kind")
    plain = sources.load(dataset)
    assert plain.splits["train"].weights is None
    assert any("--columns=weight=weight" in note for note in plain.notes)
    weighed = sources.load(dataset, columns=["weight=weight"])
    for examples in weighed.splits.values():
        named = [weights[Path(name).name] for name in examples.names]
        np.testing.assert_array_equal(examples.weights, np.float32(named))
    assert any("0 to 4.75, on average 2.375" in note for note in weighed.notes)
    before, now = record.record_of(plain), record.record_of(weighed)
    assert before.digest != now.digest
    again = record.from_bytes(record.to_bytes(now), "data.npz")
    assert again.digest == now.digest
    np.testing.assert_array_equal(again.splits["train"].weights, weighed.splits["train"].weights)
    assert "of another weight (" in record.difference(before, now)
    with pytest.raises(UserError, match="one column has two roles"):
        sources.load(dataset, columns=["weight=label", "label=label"])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("-1", r"row 3 has the weight -1 \(column w\)"),
        ("many", "row 3 has the weight many"),
        ("inf", "row 3 has the weight inf"),
        ("", "row 3 has no weight"),
        ("0", "weighs every training image 0"),
    ],
)
def test_weights_that_weigh_nothing_are_named_with_their_row(
    tmp_path: Path, weight: str, message: str
) -> None:
    images(tmp_path, ["a.png", "b.png", "c.png"])
    rows = ["a.png,cat,train,0", f"b.png,dog,train,{weight}", "c.png,cat,test,"]
    with pytest.raises(UserError, match=message):
        sources.load(write(tmp_path, rows, "image,label,split,w"), columns=["weight=w"])


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("picture,label", ["00.png,cat"], "hold the image; the table has the columns picture, label"),
        ("image,kind", ["00.png,cat"], "give --columns=label=COLUMN"),
        ("image,label", ["00.png,cat", "01.png,"], r"row 3 has no label \(column label\)"),
        ("image,label", ["00.png,cat", "01.png,dog,x"], "row 3 has 3 cells and the header 2"),
        ("image,label", ["00.png,cat", "00.png,dog"], "rows 2 and 3 name the same image, 00.png"),
        ("image,label", ["00.png,cat", "./00.png,dog"], "rows 2 and 3 name the same image, ./00.png"),
        ("image,label", ["00.png,cat", "01.png,cat"], r"a single training class \(cat\)"),
        ("image,label", [], "a header and no rows"),
        ("image,image", ["00.png,cat"], "two columns are called image"),
        ("image,label", ["00.png,cat", "../absent.png,dog"], "row 3 names ../absent.png, which is not below"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_row(
    tmp_path: Path, header: str, rows: list[str], message: str
) -> None:
    images(tmp_path, ["00.png", "01.png"])
    with pytest.raises(UserError, match=message):
        sources.load(write(tmp_path, rows, header))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfeimage", b"image,label\n\0\0,cat\n", b'image,label\n"' + b"x" * 2**21]
)
def test_a_file_that_is_no_table_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match="--dataset=csv:"):
        sources.load(f"csv:{tmp_path / 'a.csv'}")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"columns": ("photo",)}, "--columns=photo: give ROLE=COLUMN"),
        ({"columns": ("image=photo",)}, "there is no column photo; the table has the columns image, label"),
        ({"group_by": "patient"}, "--group_by=patient: there is no such column"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path: Path, more: dict, message: str) -> None:
    rows = numbered(4)
    images(tmp_path, [image for image, _ in rows])
    with pytest.raises(UserError, match=message):
        sources.load(write(tmp_path, [",".join(row) for row in rows]), **more)


def test_settings_of_tables_are_refused_elsewhere() -> None:
    with pytest.raises(UserError, match="--columns is for csv: data sets"):
        sources.load("digits", columns=("image=x",))
    with pytest.raises(UserError, match="--group_by=folder: give folder with"):
        sources.load("digits", group_by="folder")


def test_parquet_files_are_read_where_pyarrow_is(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = numbered(12)
    images(tmp_path, [image for image, _ in rows])
    parquet.write_table(
        pyarrow.table({"image": [i for i, _ in rows], "label": [c for _, c in rows]}), tmp_path / "a.parquet"
    )
    source = sources.load(f"csv:{tmp_path / 'a.parquet'}")
    assert labels_of(source, "train").items() <= dict(rows).items()
    lists = [[kind, "pet"] if number % 3 else [] for number, (_, kind) in enumerate(rows)]
    several = pyarrow.table({"image": [i for i, _ in rows], "tags": lists})
    parquet.write_table(several, tmp_path / "b.parquet")
    source = sources.load(f"csv:{tmp_path / 'b.parquet'}", task="multilabel")
    assert source.class_names == ("cat", "dog", "pet")
    for examples in source.splits.values():
        for name, row in zip(examples.names, examples.targets, strict=True):
            assert [n for n, flag in zip(source.class_names, row, strict=True) if flag] == lists[
                int(Path(name).stem)
            ]
