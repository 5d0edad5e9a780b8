"""A user's encoder: that of docs/own-encoder.md trains and is opened again; one that
does not keep to the signature is refused."""

import sys

import jax
import numpy as np
import pytest
from PIL import Image
from support import runs, workdirs
from support.helpers import batches, build, config, train
from support.pages import ROOT, blocks

import rsmatch_jax
from rsmatch_jax import evaluate, export, predict
from rsmatch_jax import train as train_command
from rsmatch_jax.analysis import explain, tsne
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.engine import checks
from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks
from rsmatch_jax.report import __main__ as report
from rsmatch_jax.runs import workdir

PAGE = blocks(ROOT / "docs" / "own-encoder.md")
(EXAMPLE,) = (block.text for block in PAGE if block.language == "python")
SMALL = {"model.classifier": "mynets:Small", "method.name": "fixmatch"}


@pytest.fixture
def mynets(tmp_path, monkeypatch):
    """write(text): makes it the module `mynets`, in the current folder."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.chdir(tmp_path)

    def write(text):
        sys.modules.pop("mynets", None)
        # Otherwise a byte-compiled file of the same second may be taken for it.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        (tmp_path / "mynets.py").write_text(text)

    yield write
    sys.modules.pop("mynets", None)


def forget():
    sys.modules.pop("mynets", None)


MARK = "import pathlib; pathlib.Path('mark').write_text('')\n"


def test_the_example_trains_and_is_opened_with_trust(mynets, tmp_path, capsys):
    """No command but train runs the code of a workdir that is not trusted."""
    assert len(EXAMPLE.splitlines()) <= 20
    mynets(MARK + EXAMPLE)
    folder, mark = tmp_path / "run", tmp_path / "mark"
    result = runs.run(folder, **SMALL)
    assert result["status"] == "finished" and mark.exists()
    assert result["config"]["model"]["classifier"] == "mynets:Small"
    Image.fromarray(arrays.fake("test").images[0]).save(tmp_path / "a.png")
    mark.unlink()
    for command, *argv in (
        (evaluate,),
        (predict, "a.png"),
        (export, "--out=model.bin"),
        (tsne, "--images=60"),
        (explain, "--index=0,1"),
    ):
        argv = [f"--workdir={folder}", *argv]
        forget()
        assert command.main(argv) == 2, command
        message = capsys.readouterr().err
        assert "model.classifier=mynets:Small is code" in message
        assert "--trust_code" in message and not mark.exists()
    assert evaluate.main([f"--workdir={folder}", "--trust_code"]) == 0
    assert f"{result['test_accuracy']:.4f}" in capsys.readouterr().out
    assert mark.exists()
    mark.unlink()
    forget()
    with pytest.raises(RequestError, match="trust_code=True"):
        rsmatch_jax.load(str(folder))
    assert report.main([str(folder), "--out=page.html"]) == 0
    assert not mark.exists()  # the page needs no network
    rsmatch_jax.load(str(folder), trust_code=True)
    assert mark.exists()


def test_train_runs_only_the_code_that_its_command_names(mynets, tmp_path, capsys):
    """Where a workdir names a module and the command does not, nothing is imported."""
    mynets(MARK + EXAMPLE)
    c = config(**{**runs.KEYS, **SMALL})
    workdir.claim(str(tmp_path / "run"), c.to_dict(), {}, {})
    flags = [f"--config.{k}={v}" for k, v in runs.KEYS.items() if "model" not in k]
    argv = ["--config=common", *flags, "--config.method.name=fixmatch"]
    argv += ["--config.model.classifier=wrn_10_1", f"--workdir={tmp_path}/run"]
    assert train_command.main(argv) == 2
    assert "model.classifier: mynets:Small there" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


def test_a_run_begins_from_weights_without_their_code(mynets, tmp_path):
    """model.init_from reads arrays: the code of the other run is not needed."""
    mynets(EXAMPLE)
    _, states = workdirs.make(tmp_path / "run", **SMALL)
    (tmp_path / "mynets.py").rename(tmp_path / "others.py")
    forget()
    place = {"model.init_from": str(tmp_path / "run")}
    with pytest.raises(RequestError, match="model.classifier=mynets:Small there"):
        runs.run(tmp_path / "new", **{"method.name": "fixmatch", **place})
    keys = {**SMALL, "model.classifier": "others:Small", **place}
    runs.run(tmp_path / "new", **{**keys, "train.num_steps": 1})
    assert states and "mynets" not in sys.modules
    sys.modules.pop("others")


NORM = "nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)"


@pytest.mark.parametrize("sync", [True, False])
def test_norms_that_know_of_no_devices_stay_equal_on_all(mynets, sync):
    """Replicas of running statistics are averaged, and the state is one for all."""
    mynets(EXAMPLE.replace('self.layers.norm(train, f"bn{i}")(x)', NORM))
    keys = {**SMALL, "model.sync_bn": sync, "train.batch_size": 8}
    exp = build(4, **keys)[2]
    state, _ = train(exp, batches(exp, 2))
    for leaf in jax.tree.leaves((state.params, state.stats)):
        shards = [np.asarray(s.data) for s in leaf.addressable_shards]
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


def test_without_norms_and_stages(mynets, tmp_path, capsys):
    """Neither is needed; Grad-CAM++ says that it has nothing to show."""
    text = EXAMPLE.replace('self.layers.norm(train, f"bn{i}")(x)', "x")
    text = text.replace("x = stage(self, name, x)", "pass")
    text = text.replace("stages = (", "names = (").replace("self.stages", "self.names")
    mynets(text)
    runs.run(tmp_path / "run", **SMALL)
    argv = [f"--workdir={tmp_path}/run", "--trust_code", "--index=0"]
    assert explain.main(argv) == 2
    assert "the classifier names no stages" in capsys.readouterr().err


RETURN = "return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)"
WRONG = {  # name, change of the example, words
    "form": ("mynets:", None, "'mynets:' is no package.module:factory"),
    "path": ("../mynets:Small", None, "no package.module:factory"),
    "module": ("nonets.a:Small", None, "no module nonets; it must be installed"),
    "child": ("mynets.deep:Small", None, "mynets.deep"),
    "inside": ("mynets:Small", ("import flax", "import nosuch\nimport flax"), "nosuch"),
    "syntax": ("mynets:Small", ("import flax", "import flax ("), "SyntaxError"),
    "exit": ("mynets:Small", ("import flax", "exit(3)\nimport flax"), "SystemExit"),
    "name": (
        "mynets:Smal",
        None,
        "mynets has no function or class Smal; it has.*Small",
    ),
    "value": ("mynets:nn", None, "mynets has no function or class nn"),
    "layers": ("mynets:Small", ("layers: Layers", "depth: int"), r"fails: TypeError"),
    "module_of": ("mynets:Layers", None, "Layers"),
    "images": (
        "mynets:Small",
        ("(self, x, train)", "(self, x)"),
        r"fails on images \('N', 8, 8, 3\) with train=False: TypeError",
    ),
    "maps": ("mynets:Small", (RETURN, "return x"), r"float32 \('N', 2, 2, 64\)"),
    "rows": (
        "mynets:Small",
        (RETURN, "return x.reshape(1, -1)"),
        r"float32 \(1, 512\)",
    ),
    "pair": ("mynets:Small", (RETURN, "return x, x"), "it returned tuple"),
    "half": ("mynets:Small", ("dtype=jnp.float32", "dtype=jnp.bfloat16"), "bfloat16"),
    "cache": (
        "mynets:Small",
        (RETURN, f"self.variable('cache', 'n', jnp.zeros, (3,))\n        {RETURN}"),
        "keeps variables in cache",
    ),
    "narrow": (
        "mynets:Small",
        (RETURN, f"x = nn.Dense(3, param_dtype=jnp.bfloat16)(x)\n        {RETURN}"),
        "has params Dense_0/bias of bfloat16",
    ),
    "empty": ("mynets:Small", ("enumerate(self.stages)", "()"), "has no parameters"),
    "stage": (
        "mynets:Small",
        ("x = stage(self, name, x)", "pass"),
        "names the stage stage1, but",
    ),
    "dropout": (
        "mynets:Small",
        (RETURN, f"x = nn.Dropout(0.5, deterministic=not train)(x)\n        {RETURN}"),
        "with train=True: InvalidRngError",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_encoder_is_refused(mynets, tmp_path, case):
    name, change, words = WRONG[case]
    text = EXAMPLE.replace(*change) if change else EXAMPLE
    assert (text != EXAMPLE) == (change is not None)
    mynets(text)

    def request():
        c = config(**{**runs.KEYS, **SMALL, "model.classifier": name})
        checks.check(c, num_devices=1)
        net = networks.make(name, {"real": 3})
        return jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 8, 8, 3)))

    with pytest.raises(RequestError, match=words):
        request()
    mynets(EXAMPLE)
    name = "mynets:Small"
    request()


def test_two_networks_of_the_example_are_those_of_the_package(mynets):
    """The same layers under both names: classifier and detector, in bfloat16."""
    mynets(EXAMPLE + "\n\ndef narrow(layers):\n    return Small(layers, width=8)\n")
    keys = {"model.classifier": "mynets:Small", "model.detector": "mynets:narrow"}
    exp = build(1, **{**keys, "model.dtype": "bfloat16"})[2]
    state, metrics = train(exp, batches(exp, 1))
    assert np.isfinite(metrics[0]["loss"])
    kernels = [
        state.params[name]["encoder"]["conv1"]["kernel"].shape
        for name in ("classifier", "detector")
    ]
    assert kernels == [(3, 3, 32, 64), (3, 3, 8, 16)]
