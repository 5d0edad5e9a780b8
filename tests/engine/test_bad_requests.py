"""Every command answers a wrong request: exit code 2, key and value named, no
traceback, nothing written. Values of single config keys: support/key_requests.py."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from support import bench_requests, photo_requests, pool_requests

from rsmatch_jax import train
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.engine import config_file
from rsmatch_jax.runs import workdir
from rsmatch_jax.synthesis.prompts import prompt_file, sentences

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = f"--config={ROOT}/configs/digits.py"

POOL = "--config.data.synthetic_pool="

CASES = {
    "train": [
        ([DIGITS, "--workdir=file.txt"], ["--workdir=file.txt", "is a file"]),
        ([DIGITS, "--workdir=file.txt", "--overwrite"], ["file.txt", "is a file"]),
        ([DIGITS, "--workdir=file.txt/run"], ["--workdir=file.txt/run"]),
        ([DIGITS, "--workdir=/proc/nobody"], ["/proc/nobody", "cannot be written"]),
        ([DIGITS, "--workdir="], ["--workdir=", "empty"]),
        ([DIGITS, "--workdir=notes"], ["--workdir=notes", "holds no run"]),
        ([DIGITS, "--workdir=notes", "--overwrite"], ["notes", "left alone"]),
        ([DIGITS, "--workdir=others"], ["--workdir=others", "left alone"]),
        ([DIGITS, "--workdir=others", "--overwrite"], ["others", "left alone"]),
        ([DIGITS, "--wrkdir=run"], ["wrkdir", "Did you mean: workdir"]),
        ([DIGITS, "--plan=how"], ["--plan=how: it must be true or false"]),
        (
            [DIGITS, "--config.method.name=fixmach"],
            ["method.name=fixmach: choose rsmatch or", "did you mean 'fixmatch'?"],
        ),
        ([DIGITS, "--workdir=run", "--config.seed=3"], ["seed: 0 there, 3 here"]),
        ([DIGITS, "--workdir=run"], ["run/split.npz", "--overwrite"]),
        ([DIGITS, "--workdir=run_garbled"], ["run_garbled/config.json", "be read"]),
        ([DIGITS, "--workdir=run_listed"], ["run_listed/config.json", "a list"]),
        ([DIGITS, "--workdir=run_result"], ["run_result/result.json", "be read"]),
        ([DIGITS, "--workdir=new", "--plan=perhaps"], ["plan", "perhaps"]),
        ([DIGITS, "--target=h100"], ["--target=h100", "--plan"]),
        ([DIGITS, "--plan", "--target=h1"], ["--target=h1", "h100, h200, v5e"]),
        ([DIGITS, "--workdir=new", "--overwrit"], ["overwrit"]),
        (["--config="], ["--config="]),
        (["--config=notes"], ["--config=notes", "no such file"]),
        (["--config=half.py"], ["half.py", "cannot be loaded"]),
        (["--config=other.py"], ["other.py", "cannot be loaded"]),
        ([DIGITS, f"{POOL}empty", "--workdir=new"], ["empty", "dataset_info.json"]),
        ([DIGITS, f"{POOL}file.txt", "--workdir=new"], ["file.txt"]),
        ([DIGITS, f"{POOL}real/train", "--workdir=new"], ["real/train", "--generator"]),
        ([DIGITS, f"{POOL}pool_cut", "--workdir=new"], ["pool_cut", "images.npy"]),
        ([DIGITS, f"{POOL}pool_meta", "--workdir=new"], ["pool_meta", "meta.json"]),
        (
            [DIGITS, f"{POOL}pool_cats", "--workdir=new"],
            ["synthetic_pool", "cat, 1, 2"],
        ),
        ([DIGITS, f"{POOL}pool_few", "--workdir=new"], ["pool holds", "of class 0"]),
        ([DIGITS, f"{POOL}set_listed", "--workdir=new"], ["set_listed", "a list"]),
        ([DIGITS, f"{POOL}set_path", "--workdir=new"], ["set_path", "'../up'"]),
        ([DIGITS, "--config.data.name=./empty"], ["empty", "dataset_info.json"]),
        ([DIGITS, "--config.data.name=./one"], ["one", "test"]),
        ([DIGITS, "--config.data.name=./images"], ["./images", "--layout=folders"]),
        ([DIGITS, f"{POOL}images", "--workdir=new"], ["pool=", "--generator=NAME"]),
        ([DIGITS, "--config.data.name=a b"], ["'a b' is neither a TFDS name"]),
        *photo_requests.TRAIN,
    ],
    "evaluate": [
        ([], ["--workdir"]),
        (["--workdir=nope"], ["--workdir=nope", "no such folder"]),
        (["--workdir=file.txt"], ["--workdir=file.txt"]),
        (["--workdir=notes"], ["--workdir=notes", "holds no run"]),
        (["--workdir=run"], ["run/checkpoints", "nothing is saved"]),
        (["--workdir=run", "--step=7"], ["run/checkpoints"]),
        (["--workdir=run_old"], ["run_old/config.json", "checkpoint.keep"]),
        (["--workdir=run_garbled"], ["run_garbled/config.json"]),
        (["--workdir=run_value"], ["run_value/config.json", "threshold=7"]),
        (["--workdir=run", "--out=run/config.json"], ["--out=run/config.json"]),
        (["--workdir=run", "--out=x.txt"], ["--out=x.txt"]),
        (["--workdir=run", "--out=nope/x.json"], ["--out=nope/x.json"]),
        (["--workdir=run", "--stp=7"], ["--stp=7"]),
        (["--wrkdir=run"], ["there is no --wrkdir=run (did you mean '--workdir'?)"]),
    ],
    "report": [
        ([], ["DIR"]),
        (["nope"], ["nope"]),
        (["empty"], ["empty", "no result.json"]),
        (["run_result"], ["run_result", "broken"]),
        (["done", "--out=page.txt"], ["--out=page.txt"]),
        (["done", "--out=nope/page.html"], ["--out=nope/page.html"]),
        (["done", "--ouT=x.html"], ["--ouT"]),
    ],
    "sweep": [
        (["table9"], ["'table9'", "did you mean 'table", "  table1: "]),
        (["table1", "--seeds=a"], ["--seeds=a"]),
        (["table1", "--seeds=1,1"], ["--seeds=1,1"]),
        (["table1", "--seeds=-1"], ["--seeds=-1"]),
        (["table1", "--shard=4/4"], ["--shard=4/4"]),
        (["table1", "--row=Fixmatch"], ["--row=Fixmatch", "FixMatch, FlexMatch"]),
        (["table1", "--shard=half"], ["--shard=half"]),
        (["table1", "--out=file.txt"], ["--out=file.txt"]),
        (["table1", "--out="], ["--out="]),
        (["table1", "--minutes=0"], ["--minutes=0"]),
        (["table1", "--minutes=nan"], ["--minutes=nan"]),
        (["table1", "--minutes=soon"], ["--minutes", "soon"]),
        (["digits", "--config.seed=1"], ["--config.seed", "--seeds"]),
        (["digits", "--config.data.nam=x"], ["data.nam", "name"]),
        (["digits", "--config.method.name=fixmatch"], ["method.name", "digits"]),
        (["digits", "--config.train.num_steps=x"], ["num_steps", "x"]),
        (["digits", "--config.train.num_steps=0"], ["num_steps=0"]),
        (["detector", "--config.method.simmatch.epass=True"], ["epass", "detector"]),
        (["digits", "--dryrun"], ["--dryrun", "did you mean '--dry_run'"]),
        (["digits", "more"], ["more"]),
    ],
    "bench": bench_requests.CASES,
    **photo_requests.CASES,
    **pool_requests.CASES,
}
REAL = [  # also as processes
    ("train", CASES["train"][0]),
    ("evaluate", CASES["evaluate"][3]),
    ("data.import_images", CASES["data.import_images"][6]),
    ("sweep", CASES["sweep"][1]),
    ("synthesis.prompts", CASES["synthesis.prompts"][-3]),
]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (len(path.parts), 2, 3)).save(path)


def save_pool(folder, count=1900, **changes):
    pool = arrays.load(str(ROOT / "rsmatch_jax" / "data" / "digits_pool"))
    fields = {k: getattr(pool, k)[:count] for k in ("images", "labels", "generators")}
    names = {"class_names": pool.class_names, "generator_names": pool.generator_names}
    arrays.save(str(folder), arrays.ImageArrays("p", **{**fields, **names, **changes}))


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with every kind of wrong file. Nothing may change there."""
    root = tmp_path_factory.mktemp("world")
    for name in ("empty", "notes"):
        (root / name).mkdir()
    (root / "file.txt").write_text("notes\n")
    (root / "notes" / "notes.txt").write_text("notes\n")
    (root / "two.txt").write_text("cat\nowl\n")
    (root / "half.py").write_text("def get_config(:\n")
    (root / "other.py").write_text("def get_config():\n    return 3\n")
    for name in ("cat", "dog"):
        picture(root / "images" / name / "1.png")
    (root / "broken" / "c").mkdir(parents=True)
    (root / "broken" / "c" / "1.png").write_bytes(b"\x89PNG\r\n")
    with zipfile.ZipFile(root / "evil.zip", "w") as archive:
        archive.writestr("../c/1.png", b"")
    make_photos(root / "photos")
    make_pools(root)
    make_runs(root)
    make_prompts(root)
    return root


def make_photos(root):
    """Pictures of two classes and others, and tables about these."""
    for folder in ("two/cat", "two/dog", "one/cat", "owl/owl", "few", "many"):
        for i in range({"two": 6, "many": 450}.get(folder.split("/")[0], 3)):
            picture(root / folder / f"{i}.png")
    for name, rows in {
        "gone": "path,origin\n999.png,real\n",
        "owl": "path,origin,label\n1.png,real,owl\n",
        "bare": "file\n1.png\n",
        "one": "path,origin\n1.png,real\n",
        "rows": "path,label\ntwo/cat/1.png,cat\ntwo/dog/9.png,dog\n",
    }.items():
        (root / f"{name}.csv").write_text(rows)


def make_pools(root):
    save_pool(root / "pool")
    save_pool(root / "pool_few", 20)
    save_pool(root / "pool_cats", class_names=("cat", *"123456789"))
    for name in ("cut", "meta"):
        shutil.copytree(root / "pool", root / f"pool_{name}")
    os.truncate(root / "pool_cut" / "images.npy", 5000)
    (root / "pool_meta" / "meta.json").write_text('{"name": "po')
    arrays.save(str(root / "real" / "train"), arrays.digits("train"))
    write_json(root / "set_listed" / "dataset_info.json", [])
    info = {"name": "p", "version": "../up"}
    write_json(root / "set_path" / "dataset_info.json", info)
    info = {"name": "p", "version": "1.0.0", "splits": [{"name": "train"}]}
    write_json(root / "one" / "dataset_info.json", info)


def make_runs(root):
    config, _, _ = config_file.parse(["", DIGITS], train.define_flags)
    config = config.to_dict()
    workdir.claim(str(root / "run"), config, {"labeled": np.arange(3)}, {})
    (root / "run" / "checkpoints").mkdir()
    write_json(root / "run_garbled" / "config.json", '{"seed": ')
    write_json(root / "others" / "config.json", {"model_type": "bert", "data": {}})
    write_json(root / "run_listed" / "config.json", [])
    shutil.copytree(root / "run", root / "run_result")
    write_json(root / "run_result" / "result.json", "{")
    write_json(
        root / "run_old" / "config.json", {"data": {}, "method": {}, "train": {}}
    )
    bad = {**config, "method": {**config["method"], "threshold": 7.0}}
    write_json(root / "run_value" / "config.json", bad)
    result = {"status": "finished", "method": "fixmatch", "config": config}
    write_json(root / "done" / "result.json", result)


def make_prompts(root):
    header = prompt_file.text("pets", ["cat", "dog"], {}, ())
    lines = ['{"label": 0, "prompt": "a cat"}\n', '{"label": 1, "prompt": "a dog"}\n']
    bad = '{"label": 9, "prompt": "a cow"}\n'
    contents = {"prompts": lines, "label": [bad], "bare": lines[:1], "none": []}
    for name, content in contents.items():
        (root / f"{name}.jsonl").write_text(header + "".join(content))
    words = "zero one two three four five six seven eight nine"
    how = {"words": words.split(), "model": sentences.DEFAULT_MODEL, "per_class": 5}
    how |= {"allow_missing_word": False, **vars(sentences.Sampling())}
    finished = prompt_file.text("digits", "0123456789", how, ())
    (root / "digits.jsonl").write_text(finished)


def snapshot(folder):
    """{path: content} of all files below a folder but the lock; None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != workdir.LOCK_FILE
    }


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """The world as the working directory, without data elsewhere."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    before = snapshot(world)
    yield world
    assert snapshot(world) == before
    decoded = tmp_path / "rsmatch_jax"
    kinds = {"compiled", "pictures"}  # of a user's files: read to find the fault
    assert not [path for path in decoded.rglob("*") if not kinds & {*path.parts}]


def check(code, message, words):
    """The last message is the answer."""
    assert code == 2 and "Traceback" not in message, message
    answer = message[message.rfind("error: ") :]
    for word in ("error: ", *words):
        assert word in answer, message


@pytest.mark.parametrize(
    ("command", "argv", "words"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
    ids=lambda x: (
        " ".join(x)[-50:].replace(str(ROOT), "") if isinstance(x, list) else x
    ),
)
def test_wrong_request_is_answered(place, capsys, command, argv, words):
    module = importlib.import_module(f"rsmatch_jax.{command}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"rsmatch_jax.{command}.__main__")
    code = module.main(argv)
    check(code, capsys.readouterr().err, words)


@pytest.mark.parametrize(("command", "case"), REAL, ids=[name for name, _ in REAL])
def test_as_a_process(place, command, case):
    argv, words = case
    done = subprocess.run(
        [sys.executable, "-m", f"rsmatch_jax.{command}", *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=300,
    )
    check(done.returncode, done.stderr, words)
