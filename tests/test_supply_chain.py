"""Foreign files are data: nothing in them is ever run."""

import hashlib
import json
import os
import pathlib
import pickle
import re
import shutil

import numpy as np
import pytest
from support import workdirs

from rsmatch_jax import train
from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.engine import config_file
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir

ROOT = pathlib.Path(__file__).parent.parent
FILES = [*sorted((ROOT / "rsmatch_jax").rglob("*.py")), ROOT / "launch.py"]
FILES += sorted((ROOT / "configs").glob("*.py"))
DIGITS = ["launch.py", "--config=configs/digits.py", "--config.method.name=fixmatch"]
POOL = ROOT / "rsmatch_jax" / "data" / "digits_pool"


# Beside what ruff refuses: pickles, eval, a shell (pyproject.toml).
RUNNING = (
    r"(np|torch)\.load\((?![^)]*(allow_pickle=False|weights_only=True))"
    r"|trust_remote_code\W*True|(?<!def )(?<![.\w])(compile|__import__)\("
)


def test_no_file_runs_foreign_data():
    assert not [path for path in FILES if re.search(RUNNING, path.read_text())]


# What imports a module by a name, or runs a file, and from where it has the name.
BY_NAME = r"import_module\(|resolve_name\(|exec_module\(|\brunpy\b"
IMPORTERS = {
    "__init__.py": "its list of public names",
    "cli.py": "its list of commands",
    "data/images/kinds.py": "pillow_heif",
    "engine/config_file.py": "the file that --config names",
    "methods/rules.py": "its list of rules",
    "models/own_encoder.py": "the user's config, a saved one only with --trust_code",
}


def test_modules_are_imported_by_name_in_few_files():
    """test_own_encoder.py has the commands that open a workdir which names a module."""
    package = ROOT / "rsmatch_jax"
    importers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(BY_NAME, path.read_text())
    }
    assert importers == set(IMPORTERS)


def test_whoever_opens_a_workdir_says_whether_its_code_is_trusted():
    calls = {
        str(path.relative_to(ROOT / "rsmatch_jax")): call
        for path in FILES
        if path.is_relative_to(ROOT / "rsmatch_jax")
        for call in re.findall(r"\b(?:saved|frozen)\.load\(([^)]*)\)", path.read_text())
    }
    doors = ("evaluate", "predict", "export", "sift/material", "analysis/output")
    assert calls.keys() == {f"{name}.py" for name in (*doors, "deploy/frozen")}
    assert all("trust_code=" in call for call in calls.values()), calls


@pytest.mark.parametrize(
    "line",
    [
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "Model.from_pretrained(name, trust_remote_code=True)",
        "compile(text)",
    ],
)
def test_such_a_line_would_be_noticed(line):
    assert re.search(RUNNING, line)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def as_array(path, mark):
    np.save(path, np.array([Bomb(mark)], object), allow_pickle=True)


def as_pickle(path, mark):
    path.write_bytes(pickle.dumps(Bomb(mark)))


def as_zip(path, mark):
    with open(path, "wb") as f:
        np.savez(f, labeled=np.array([Bomb(mark)], object))


def sign(folder):
    """Makes the checksums right, as an attacker would."""
    meta = json.loads((folder / "meta.json").read_text())
    for name, entry in meta["files"].items():
        content = (folder / name).read_bytes()
        entry["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta))


def refused(argv, capsys, *words):
    assert train.main([*DIGITS[1:], *argv]) == 2
    message = capsys.readouterr().err
    # On a slow machine lines of progress come first.
    assert ("\n" + message).count("\nerror: ") == 1
    assert "Traceback" not in message
    for word in words:
        assert word in message


def test_the_bombs_are_live(tmp_path):
    """Each one runs if its file is trusted."""
    for n, lay in enumerate((as_array, as_pickle, as_zip)):
        lay(tmp_path / "file.npy", tmp_path / f"mark{n}")
        content = np.load(tmp_path / "file.npy", allow_pickle=True)
        if hasattr(content, "close"):
            with content:
                content["labeled"]
        assert (tmp_path / f"mark{n}").is_dir()


@pytest.mark.parametrize("lay", [as_array, as_pickle, as_zip])
@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "generators.npy"])
def test_objects_in_a_pool_are_refused(tmp_path, capsys, name, lay):
    folder, mark = tmp_path / "pool", tmp_path / "mark"
    shutil.copytree(POOL, folder)
    lay(folder / name, mark)
    sign(folder)
    argv = [f"--config.data.synthetic_pool={folder}", f"--workdir={tmp_path}/run"]
    refused(argv, capsys, str(folder))
    assert sorted(os.listdir(tmp_path)) == ["pool"]


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_objects_in_a_real_set_are_refused(tmp_path, capsys, name):
    folder, mark = tmp_path / "set", tmp_path / "mark"
    for split in ("train", "test"):
        arrays.save(str(folder / split), arrays.digits(split))
    as_array(folder / "train" / name, mark)
    sign(folder / "train")
    argv = [f"--config.data.name={folder}", f"--workdir={tmp_path}/run"]
    refused(argv, capsys, name, "no array of numbers")
    assert sorted(os.listdir(tmp_path)) == ["set"]


@pytest.mark.parametrize("lay", [as_array, as_pickle, as_zip])
def test_objects_in_split_npz_are_refused(tmp_path, capsys, lay):
    folder, mark = tmp_path / "run", tmp_path / "mark"
    config, _, _ = config_file.parse(DIGITS, train.define_flags)
    workdir.claim(str(folder), config.to_dict(), {"labeled": np.arange(3)}, {})
    lay(folder / "split.npz", mark)
    refused([f"--workdir={folder}"], capsys, "split.npz", "--overwrite")
    assert not mark.exists()


def test_objects_in_a_decoded_copy_are_not_run(tmp_path):
    from rsmatch_jax.data.stores import array_cache

    source = dataset_folder.Source(str(tmp_path), "pets", "1.0.0", {})
    data, mark = arrays.fake("test"), tmp_path / "mark"

    def get():
        place = array_cache.Place("pools", "pets", None, None)
        (copy,) = array_cache.get_or_build(
            str(tmp_path / "cache"), place, source, ["train"], lambda split: (data, {})
        )
        return copy

    get()
    entry = f"1.0.0-{source.fingerprint}"
    folder = tmp_path / "cache" / "pools" / "pets" / entry / "train"
    as_array(folder / "labels.npy", mark)
    sign(folder)
    np.testing.assert_array_equal(get().labels, data.labels)  # decoded again
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"files": {}}, "images"),
        ({"files": {"../other.npy": {"sha256": ""}}}, "other.npy"),
        ({"files": None}, "no complete array folder"),
        ({"class_names": 3}, "no complete array folder"),
        ({"class_names": ["0"]}, "labels are outside -1..0"),
        ({"generator_names": []}, "generators are outside"),
    ],
)
def test_a_meta_json_of_something_else_is_refused(tmp_path, capsys, changes, word):
    folder = tmp_path / "pool"
    shutil.copytree(POOL, folder)
    workdirs.change("meta.json", **changes)(folder)
    refused([f"--config.data.synthetic_pool={folder}"], capsys, str(folder), word)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("images.npy", np.zeros((1900, 8, 8, 1), np.float32)),
        ("images.npy", np.zeros((1900, 64), np.uint8)),
        ("labels.npy", np.zeros(3, np.int32)),
        ("generators.npy", np.full(1900, -3, np.int32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, name, array):
    folder = tmp_path / "pool"
    shutil.copytree(POOL, folder)
    np.save(folder / name, array)
    sign(folder)
    with pytest.raises(RequestError, match=name.removesuffix(".npy")):
        arrays.load(str(folder))


def test_a_version_that_is_a_path_is_refused(tmp_path, capsys):
    folder = tmp_path / "pool"
    folder.mkdir()
    info = {"name": "pets", "version": "../../../elsewhere", "splits": []}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    refused(
        [f"--config.data.synthetic_pool={folder}"], capsys, "../elsewhere", "version"
    )


def test_a_pool_that_names_a_module_of_its_own_is_refused(tmp_path, monkeypatch):
    """TFDS imports the module of a feature's class, which may lie in the pool."""
    folder = tmp_path / "pool"
    folder.mkdir()
    split = {"name": "train", "shardLengths": [], "numBytes": "0"}
    info = {"name": "pets", "version": "1.0.0", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    feature = {"pythonClassName": "pool.feature.Bomb", "text": {}}
    features = {
        "pythonClassName": (
            "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        ),
        "featuresDict": {"features": {"image": feature}},
    }
    (folder / "features.json").write_text(json.dumps(features))
    mark = tmp_path / "mark"
    (folder / "feature.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RequestError, match=r"pool\.feature\.Bomb is no feature"):
        sources.load_pool(str(folder), cache_dir=str(tmp_path / "cache"))
    assert not mark.exists()
