"""CSVs of labels, and what each comes out as, by name."""

import pytest
from support.import_sources import make_folder
from support.pictures import encode, noise

from rsmatch_jax.data.images import label_table
from rsmatch_jax.errors import RequestError

PNG = encode(noise(8, 8, 3))

# Name: (lines of the CSV, {path: class}, words that are printed or of the refusal).
TABLES = {
    "a CSV beside a flat folder": (
        "path,label\na/1.png,cat\na/2.png,dog\n",
        {"a/1.png": "cat", "a/2.png": "dog"},
        "",
    ),
    "a CSV from a table program": (
        '\ufeffLabel , Path\r\n cat , a/1.png\r\n\r\n"dog, big",./a/2.png\r\n',
        {"./a/2.png": "dog, big", "a/1.png": "cat"},
        "",
    ),
    "images without a row": (
        "path,label\na/1.png,cat\n",
        {"a/1.png": "cat"},
        "1 images have no row: {}/a/2.png",
    ),
    "rows without an image": (
        "path,label\na/1.png,cat\na/9.png,dog\na,dog\n",
        None,
        "has 2 rows without a file below the CSV's folder: a/9.png (line 3), a (",
    ),
    "a file in two rows": (
        "path,label\na/1.png,cat\na/2.png,cat\na/../a/1.png,dog\n",
        None,
        "lines 2 and 4 name the same file, a/../a/1.png",
    ),
    "a row without a class": ("path,label\na/1.png,\n", None, "line 2 has no label"),
    "another header": (
        "file;class\na/1.png;cat\n",
        None,
        "begins with 'file;class', not with 'path,label'",
    ),
    "a comma in a name": (
        "path,label\na/1.png,cat,x\n",
        None,
        "line 2 has 3 values, the header 2; quote values",
    ),
    "no rows": ("path,label\n", None, "no rows below its header"),
    "no text": ("\0\0", None, "begins with '"),
    "an open quote": ('path,label\n"a/1.png,cat\n', None, "cannot be read as a CSV"),
}


@pytest.mark.parametrize(("text", "result", "words"), TABLES.values(), ids=TABLES)
def test_tables(tmp_path, text, result, words):
    make_folder(tmp_path, {"a/1.png": PNG, "a/2.png": PNG})
    path, lines = f"{tmp_path}/labels.csv", []
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    if result is None:
        with pytest.raises(RequestError) as error:
            label_table.labelled(path, "--from", lines.append)
        assert str(error.value).startswith(f"--from={path}")
        assert words in str(error.value)
        return
    pairs = label_table.labelled(path, "--from", lines.append)
    assert [(file.path, name) for file, name in pairs] == list(result.items())
    assert all(file.read() == PNG for file, _ in pairs)
    expected = [f"--from={path}: {words.format(tmp_path)}"] if words else []
    assert lines == expected
