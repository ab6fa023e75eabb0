"""Tables of images, CSV and Parquet."""

import json

import numpy as np
import pytest
from PIL import Image

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.data.sources import table
from fedkr.errors import UserError
from tests.hostile import damaged, read_bounded, thorough


@pytest.fixture
def scans(tmp_path):
    """Twenty pictures of 6 x 6 pixels, the grey level being the number of the file, but for a white corner."""
    (tmp_path / "images").mkdir()
    for index in range(20):
        pixels = np.full((6, 6), index, np.uint8)
        pixels[-1, -1] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    return tmp_path


def rows(**columns):
    """Return a valid table's rows, columns added or replaced by functions of the row's number."""
    usual = {"path": lambda i: f"images/{i}.png", "label": lambda i: ("healthy", "ill")[i % 2]}
    return [{name: of(i) for name, of in (usual | columns).items()} for i in range(20)]


def csv_text(table_rows, mark=","):
    return "\n".join(mark.join(cells) for cells in [list(table_rows[0]), *(map(str, r.values()) for r in table_rows)])


def load(folder, content, **options):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_source(DataConfig(name="table", path=str(path), **options))


def levels(images):
    return sorted(images.images[:, 0, 0, 0].tolist())


def test_rows_give_images_labels_patients_and_splits(scans):
    content = rows(patient=lambda i: f"P{i // 2}", split=lambda i: "test" if i < 4 else "val" if i < 8 else "Train")
    source = load(scans, csv_text(content))
    assert source.pool.classes == ("healthy", "ill")
    assert (levels(source.test), source.val) == ([0, 1, 2, 3], 4)
    assert source.pool.images[:, 0, 0, 0].tolist() == [*range(8, 20), *range(4, 8)]
    assert source.pool.labels.tolist() == [0, 1] * 8
    assert len(np.unique(source.pool.groups)) == 8 and source.pool.groups[0] == source.pool.groups[1]
    assert not set(source.pool.groups.tolist()) & set(source.test.groups.tolist())


def test_without_splits_a_share_is_set_apart_that_divides_no_patient(scans):
    source = load(scans, csv_text(rows(patient=lambda i: i // 4)))
    assert len(source.pool) + len(source.test) == 20
    assert not set(source.pool.groups.tolist()) & set(source.test.groups.tolist())
    assert load(scans, csv_text(rows(patient=lambda i: i // 4)), patients="none").pool.groups is None


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("how", ["plain", "bom", "crlf", "quoted", "upper"])
def test_what_spreadsheets_write_is_read(scans, mark, how):
    text = csv_text(rows(), mark)
    text = {
        "plain": text,
        "bom": "\ufeff" + text,
        "crlf": text.replace("\n", "\r\n") + "\r\n",
        "quoted": "\n".join(mark.join(f'"{cell}"' for cell in line.split(mark)) for line in text.split("\n")),
        "upper": text.replace("path", " Path ", 1).replace("label", "LABEL", 1),
    }[how]
    assert len(load(scans, text).pool) == 16


def test_numbers_as_labels_are_in_the_order_of_numbers(scans):
    assert load(scans, csv_text(rows(label=lambda i: (2, 10)[i % 2]))).pool.classes == ("2", "10")


def test_numbers_that_are_equal_and_long_ones_have_an_order(scans):
    for names in (("1", "01", "2"), ("2", "1", "01")):
        assert table._labels(dict.fromkeys(names)) == ["01", "1", "2"]
    long = "7" * 5000
    with pytest.raises(UserError, match="a name of 5000 characters"):
        load(scans, csv_text(rows(label=lambda i: (long, "3")[i % 2])))


@pytest.mark.parametrize("missing", ["NA", "nan", "NaN", "None", "NULL", "<NA>", " "])
def test_what_stands_for_a_missing_value_is_no_class_and_no_patient(scans, missing):
    content = rows(
        label=lambda i: missing if i == 0 else ("healthy", "ill")[i % 2],
        patient=lambda i: missing if i < 10 else f"P{i // 2}",
    )
    source = load(scans, csv_text(content), least_usable=0.9)
    assert source.pool.classes == ("healthy", "ill") and len(source.pool) + len(source.test) == 19
    assert [(item.name, item.reason) for item in source.left_out] == [("row 2", "no label")]
    assert "9 file(s) name no patient, and each counts as a patient of its own" in source.warnings


def test_a_class_that_is_called_none_can_be_named(scans):
    content = rows(label=lambda i: ("None", "ill")[i % 2])
    assert load(scans, csv_text(content), classes=["ill", "None"]).pool.class_counts().tolist() == [8, 8]


@pytest.mark.parametrize("spelt", ["./images/1.png", "images//1.png", "images/../images/1.png", "{}/images/1.png"])
def test_one_file_in_two_spellings_is_listed_twice(scans, spelt):
    content = f"path,label\nimages/1.png,x\n{spelt.format(scans)},y\n"
    with pytest.raises(UserError, match=r"rows 2 and 3 list the same file"):
        load(scans, content)


def test_named_classes_keep_their_order_and_an_unknown_one_is_refused(scans):
    assert load(scans, csv_text(rows()), classes=["ill", "rare", "healthy"]).pool.class_counts().tolist() == [8, 0, 8]
    with pytest.raises(UserError, match=r"class 'ill' is not in data.classes"):
        load(scans, csv_text(rows()), classes=["healthy", "sick"])


def test_rows_without_a_readable_file_or_a_label_are_left_out_and_told(scans):
    content = rows(
        path=lambda i: "nowhere.png" if i == 3 else f"images/{i}.png", label=lambda i: ("", "a", "b")[min(i, 1 + i % 2)]
    )
    source = load(scans, csv_text(content), least_usable=0.9)
    assert [(item.name, item.reason) for item in source.left_out] == [
        ("row 2", "no label"),
        ("nowhere.png", "No such file or directory"),
    ]
    assert source.warnings[0].startswith("2 of 20 files cannot be read and are left out")


BAD_TABLES = {
    "no label column": ("path,class\na.png,x\n", r"has no column 'label' \(found: path, class\)"),
    "nothing": ("", "has no column 'path'"),
    "a header alone": ("path,label\n", "no row has both path and label"),
    "two labels": ("path,label,label\na.png,x,y\n", "has two columns 'label'"),
    "one class": ("path,label\nimages/1.png,x\n", "only one class"),
    "a file twice": ("path,label\nimages/1.png,x\nimages/2.png,y\nimages/1.png,y\n", "rows 2 and 4 list the same file"),
    "a cell too many": ("path,label\nimages/1.png,x\nimages/2.png,y,z\n", "row 3 has 3 cells, the header 2"),
    "an open quote": ('path,label\nimages/1.png,x\n"images/2.png,y\n', "not readable as CSV"),
    "a misspelt split": ("path,label,split\nimages/1.png,x,train\nimages/2.png,y,tset\n", "row 3: split 'tset'.*test"),
    "lookalikes": ("path,label\nimages/1.png,ill\nimages/2.png,Ill\n", "differ only by case or spaces"),
    "other letters": ("path,label\nimages/1.png,gr\xf6\xdfe\n".encode("latin-1"), "not in UTF-8"),
    "labels and paths exchanged": ("label,path\n" + "".join(f"{i}.png,x{i}\n" for i in range(1001)), "at most 1000"),
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_a_bad_table_is_one_line_that_names_it(scans, what):
    content, message = BAD_TABLES[what]
    with pytest.raises(UserError, match=rf"table.csv: .*{message}") as caught:
        load(scans, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "absent.csv", "absent.parquet", "/dev/zero", "images"])
def test_what_is_no_table_is_named(scans, monkeypatch, path):
    monkeypatch.chdir(scans)
    with pytest.raises(UserError, match=path or "data.path=''"):
        load_source(DataConfig(name="table", path=path))


def test_parquet_is_read_as_csv_is(scans):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = rows(label=lambda i: i % 2, patient=lambda i: float(i // 2) if i else None)
    parquet.write_table(pa.Table.from_pylist(content), scans / "table.parquet")
    source = load_source(DataConfig(name="table", path=str(scans / "table.parquet")))
    assert source.pool.classes == ("0", "1") and len(source.pool) + len(source.test) == 20
    assert source.warnings == ["1 file(s) name no patient, and each counts as a patient of its own"]
    (scans / "table.parquet").write_bytes((scans / "table.parquet").read_bytes()[:-30])
    with pytest.raises(UserError, match="not readable as Parquet"):
        load_source(DataConfig(name="table", path=str(scans / "table.parquet")))


def test_what_a_row_says_of_another_dataset_changes_is_noticed(scans):
    first = load(scans, csv_text(rows()))
    second = load(scans, csv_text(rows(label=lambda i: ("healthy", "ill")[i % 3 == 0])))
    assert first.pool.class_counts().tolist() != second.pool.class_counts().tolist()


ODD_CELLS = [
    "",
    " ",
    "\0",
    "a" * 5000,
    "../" * 99 + "etc/passwd",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "/dev/zero",
    ".",
    "\x1b[2J",
    '"',
    "'",
    ",",
    ";",
    "\u202e",
    "1e400",
    "-1",
    "NaN",
    "train",
    "images/1.png",
]


@thorough
def test_the_reader_of_tables_is_total(scans, rng):
    content = rows(patient=lambda i: i // 2, split=lambda i: ("train", "test")[i % 4 == 0])
    for _ in range(rng.randint(0, 3)):
        rng.choice(content)[rng.choice(["path", "label", "patient", "split"])] = rng.choice(ODD_CELLS)
    text = csv_text(content).encode(errors="surrogatepass")
    (scans / "table.csv").write_bytes(damaged(rng, text) if rng.random() < 0.6 else text)
    config = DataConfig(name="table", path=str(scans / "table.csv"), least_usable=0.5)
    accepted, source = read_bounded("table of images", table.load, config)
    if accepted:
        assert len(source.pool) and len(source.test) and json.dumps([list(item) for item in source.left_out])
