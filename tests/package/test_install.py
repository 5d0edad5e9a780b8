"""The package as users install it: a wheel in a fresh environment, then an editable
install in the same one. Every command starts in an empty folder."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
HOME = ROOT / ".venv-package"
PYTHON = HOME / "bin" / "python"
SHORT = ["--config.train.num_steps=20", "--config.eval.every_steps=20"]
SMALL = [*SHORT, "--config.train.batch_size=4", "--config.train.unlabeled_ratio=1"]


def run(*command, cwd, code=0):
    """Runs a command as a user would, outside the repository; returns its output."""
    hidden = ("PYTHONPATH", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".jax_cache")
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def pip(*words):
    run(PYTHON, "-m", "pip", "install", "--quiet", *words, cwd=HOME)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out]
    run(*build, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=["wheel", "editable"])
def package(request, wheel):
    """Where the installed package and its configs must lie."""
    if request.param == "wheel":
        run(sys.executable, "-m", "venv", "--clear", HOME, cwd=ROOT)
        pip(wheel)
        (site,) = HOME.glob("lib/python*/site-packages")
        return site / "rsmatch_jax", site / "rsmatch_jax" / "configs"
    pip("--no-deps", "--editable", ROOT)  # takes the wheel's place
    return ROOT / "rsmatch_jax", ROOT / "configs"


@pytest.fixture
def rsmatch(package, tmp_path):
    """Calls the console script in an empty folder."""

    def call(*words, code=0):
        return run(HOME / "bin" / "rsmatch", *words, cwd=tmp_path, code=code)

    return call


def test_the_wheel_holds_configs_templates_and_pool(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA")))
    inside = [*ROOT.glob("rsmatch_jax/**/*"), *ROOT.glob("configs/*.py")]
    for path in inside:
        if path.is_file() and "__pycache__" not in path.parts:
            name = str(path.relative_to(ROOT))
            name = name.replace("configs/", "rsmatch_jax/configs/", 1)
            assert name in names
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"rsmatch_jax"}
    text = metadata.decode()
    for extra in ("cuda12", "cuda13", "tpu", "synthesis", "dev", "docs"):
        assert f"Provides-Extra: {extra}" in text
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            name = line.split(">")[0].lower().replace("_", "-")
            assert f"Requires-Dist: {name}>" in text


def test_where_package_and_configs_lie(package, tmp_path):
    program = (
        "import rsmatch_jax; from rsmatch_jax.engine import config_file as c;"
        "print(*rsmatch_jax.__path__, c.CONFIGS, c.find('digits'), sep='\\n')"
    )
    lines = run(PYTHON, "-c", program, cwd=tmp_path).splitlines()[-3:]
    assert lines == [*map(str, package), str(package[1] / "digits.py")]


def test_from_training_to_the_report(rsmatch, tmp_path):
    rsmatch("train", "--config=digits", *SHORT, "--workdir=run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["steps"] == 20
    pool = np.load(ROOT / "rsmatch_jax/data/digits_pool/images.npy")
    Image.fromarray(pool[0].squeeze()).save(tmp_path / "scan.png")
    printed = rsmatch("predict", "--workdir=run", "scan.png")
    line = next(x for x in printed.splitlines() if x.startswith("{"))
    assert json.loads(line)["image"] == "scan.png"
    rsmatch("export", "--workdir=run", "--out=model.bin")
    assert (tmp_path / "model.bin").stat().st_size > 1e5
    rsmatch("report", "run", "--out=report.html")
    assert "<html" in (tmp_path / "report.html").read_text()
    printed = rsmatch("evaluate", "--workdir=run")
    assert f"{result['test_accuracy']:.4f}" in printed
    program = "import rsmatch_jax; print(rsmatch_jax.load('run').class_names)"
    assert "'9'" in run(PYTHON, "-c", program, cwd=tmp_path)


def test_a_sweep_runs_and_prints_lines_that_run(rsmatch, tmp_path):
    words = ["digits", "--seeds=0", "--shard=0/18", "--out=out", *SMALL]
    line = rsmatch("sweep", *words, "--dry_run").splitlines()[0].split()
    assert line[0] == "python"
    run(PYTHON, *line[1:], "--plan", cwd=tmp_path)
    assert not (tmp_path / "out").exists()
    rsmatch("sweep", *words)
    (result,) = tmp_path.glob("out/*/seed0/result.json")
    assert json.loads(result.read_text())["status"] == "finished"


def test_a_config_file_beside_other_configs(rsmatch, tmp_path):
    """`from configs import common` takes the packaged module from any folder."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError('not this')\n")
    (tmp_path / "configs" / "common.py").write_text("raise ImportError('nor this')\n")
    (tmp_path / "mine.py").write_text(
        "from configs import common\n\n\ndef get_config():\n"
        "    c = common.get_config()\n    c.data.name = 'digits'\n"
        "    c.data.labels_per_class = 10\n    c.model.classifier = 'wrn_10_1'\n"
        "    c.method.name = 'supervised'\n    return c\n"
    )
    assert "digits" in rsmatch("train", "--config=mine.py", "--plan", *SMALL)
    printed = rsmatch("train", "--config=configs/common.py", "--plan", code=2)
    assert "nor this" in printed


def test_commands_answer(rsmatch):
    assert "rsmatch train --config=digits" in rsmatch()
    assert "did you mean 'train'" in rsmatch("trian", code=2)
    assert "--workdir=DIR" in rsmatch("train", "--help")
