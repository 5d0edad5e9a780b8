"""Runs that begin from the weights of another run, or of a file."""

import functools
import shutil

import jax
import numpy as np
import pytest
from support import runs, torch_resnets, workdirs
from support import safetensors_bytes as written
from support.helpers import BLOCKS, assert_bit_equal, build
from support.trees import flat

from rsmatch_jax.engine import beginning, start_weights
from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks, resnet
from rsmatch_jax.runs import workdir

FIXMATCH = {"method.name": "fixmatch"}
ONE = {"method.rsmatch.individual_models": False}
FROM = "model.init_from"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(workdir of an RSMatch run at step 7, its state there)."""
    folder = tmp_path_factory.mktemp("source") / "run"
    _, states = workdirs.make(folder)
    return folder, states[7]


def begun(place, devices=1, **overrides):
    """(experiment of a run from `place`, its state before step 0, the line)."""
    keys = {FROM: str(place), **overrides}
    _, task, exp = build(devices, **keys)
    exp, lines = beginning.from_weights(exp, task, "nowhere", False)
    return exp, exp.init_state(), lines[0]


@pytest.mark.parametrize("devices", [1, 4])
def test_same_networks_begin_where_the_run_ended(source, devices):
    """EMA weights and running statistics; everything else as without the key."""
    folder, there = source
    exp, state, line = begun(folder, devices)
    _, _, plain = build(devices)
    fresh = plain.init_state()
    for tree in (state.params, state.ema):
        assert_bit_equal(tree, there.ema)
    assert_bit_equal(state.stats, there.stats)
    for name in ("step", "key", "opt_state", "extra"):
        assert_bit_equal(getattr(state, name), getattr(fresh, name))
    for leaf, like in zip(*map(jax.tree.leaves, (state, fresh)), strict=True):
        assert (leaf.dtype, leaf.sharding) == (like.dtype, like.sharding)
    assert line == (
        f"model.init_from={folder}: begins from step 7, EMA weights of classifier "
        "(encoder, fake, real), detector (encoder, detector)"
    )
    # It is donated: no two leaves may share memory.
    buffers = [x.unsafe_buffer_pointer() for x in _first_shards(state)]
    assert len(set(buffers)) == len(buffers)


def _first_shards(state):
    trees = (state.params, state.ema, state.stats)
    return [x.addressable_shards[0].data for x in jax.tree.leaves(trees) if x.size]


@pytest.mark.parametrize(
    ("here", "words", "heads"),
    [
        (FIXMATCH, "classifier (encoder, real); unused: classifier heads/fake, the "
         "detector", {"real": True}),
        (ONE, "new: classifier heads/detector (none there); unused: the detector",
         {"real": True, "fake": True, "detector": False}),
        ({"model.detector": "wrn_10_1"}, "fake, real); new: the detector (encoder/",
         {"real": True, "fake": True}),
        ({"method.name": "simmatch"}, "new: classifier projectors/", {"real": True}),
    ],
    ids=["fixmatch", "one_network", "another_detector", "simmatch"],
)  # fmt: skip
def test_what_is_new_and_what_is_unused_is_named(source, here, words, heads):
    folder, there = source
    _, state, line = begun(folder, **here)
    assert words in line
    ours, theirs = flat(state.params["classifier"]), flat(there.ema["classifier"])
    encoder = there.ema["classifier"]["encoder"]
    for tree in (state.params, state.ema):
        assert_bit_equal(tree["classifier"]["encoder"], encoder)
    assert_bit_equal(state.stats["classifier"], there.stats["classifier"])
    for head, taken in heads.items():
        name = f"heads/{head}/kernel"
        assert (name in theirs and (ours[name] == theirs[name]).all()) == taken
    if "detector" in state.params:
        fresh = build(**here)[2].init_state()
        assert_bit_equal(state.params["detector"], fresh.params["detector"])


def test_heads_of_other_classes_begin_anew(source):
    folder, there = source
    _, task, exp = build(**{FROM: str(folder)})
    shapes = exp.first_state.out_info
    names = [f"{name}s" for name in task.class_names]
    weights, line = start_weights.read(exp.config, exp.method, shapes, names)
    assert "classifier heads/real (other classes)" in line
    assert not [path for path in weights if "real" in path or "fake" in path]
    assert any("heads/detector" in path for path in weights)


def torch_file(path, name="resnet_basic", **changes):
    state = {**torch_resnets.state_dict(name), **torch_resnets.counters(name)}
    return written.write(path, {**state, **changes})


@pytest.fixture
def resnets(monkeypatch):
    for name in ("resnet_basic", "resnet_deep"):
        deep = name in torch_resnets.BOTTLENECK
        small = functools.partial(resnet.ResNet, torch_resnets.BLOCKS[name], deep)
        monkeypatch.setitem(networks.MODELS, name, small)


def test_resnet_begins_from_a_file(resnets, tmp_path):
    path = torch_file(tmp_path / "w.safetensors")
    keys = {"model.classifier": "resnet_basic"}
    _, state, line = begun(path, **keys)
    fresh = build(**keys)[2].init_state()
    theirs = torch_resnets.state_dict("resnet_basic")
    encoder = state.ema["classifier"]["encoder"]
    np.testing.assert_array_equal(
        encoder["stage2_block0"]["shortcut"]["kernel"],
        theirs["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        state.stats["classifier"]["encoder"]["bn"]["var"], theirs["bn1.running_var"]
    )
    heads, like = (s.params["classifier"]["heads"] for s in (state, fresh))
    assert_bit_equal(heads, like)
    assert_bit_equal(state.params["detector"], fresh.params["detector"])
    assert line.endswith(
        "the classifier's encoder resnet_basic begins from its 30 arrays; new are "
        "heads, the detector; unused: fc.bias, fc.weight"
    )


def damage(folder):
    """Changes a byte of every large file of a checkpoint."""
    files = [p for p in folder.rglob("checkpoints/7/state/**/d/*") if p.is_file()]
    assert files
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)


REFUSED = {  # what is done to a copy of the source or the file, keys, words
    "gone": ("{tmp}/gone", {}, "does not exist; name the workdir of a run, or a"),
    "pickle": ("{tmp}/w.pth", {}, r"w\.pth is no \.safetensors file.*save_file"),
    "no_run": ("{tmp}", {}, "it holds no run"),
    "unsaved": ("{tmp}/unsaved", {}, "nothing is saved there yet"),
    "damaged": ("{tmp}/damaged", {}, "checkpoints/7 is damaged"),
    "encoder": (
        "{run}",
        {"model.classifier": "wrn_10_1"},
        r"encoder/bn/bias is \(16,\) there, \(64,\) here; "
        "model.classifier=tiny there, wrn_10_1 here",
    ),
    "wrn": ("{tmp}/w.safetensors", {}, "resnet18 and resnet50.*model.classifier=tiny"),
    "deep": (
        "{tmp}/w.safetensors",
        {"model.classifier": "resnet_deep"},
        "w.safetensors holds another network: it lacks layer1.0.bn3.bias",
    ),
    "nan": (
        "{tmp}/nan.safetensors",
        {"model.classifier": "resnet_basic"},
        "stats/classifier/encoder/bn/mean is not finite",
    ),
    "itself": ("nowhere", {}, "is the workdir of this run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_refused(source, resnets, tmp_path, case):
    place, keys, words = REFUSED[case]
    folder, _ = source
    (tmp_path / "w.pth").write_bytes(b"")
    for name in ("unsaved", "damaged"):
        if name == case:
            shutil.copytree(folder, tmp_path / name)
    if case == "unsaved":
        shutil.rmtree(tmp_path / "unsaved" / "checkpoints")
    if case == "damaged":
        damage(tmp_path / "damaged")
    torch_file(tmp_path / "w.safetensors")
    mean = np.full(64, np.nan, np.float32)
    torch_file(tmp_path / "nan.safetensors", **{"bn1.running_mean": mean})
    place = place.format(tmp=tmp_path, run=folder)
    with pytest.raises(RequestError, match=words) as e:
        begun(place, **keys)
    assert str(e.value).startswith("model.init_from")


def test_wrn_of_the_other_form_is_refused(tmp_path):
    """wrn_preact=tf computes something else with weights of equal shapes."""
    keys = {**FIXMATCH, **BLOCKS}
    workdirs.make(tmp_path / "run", **keys, **{"model.wrn_preact": "tf"})
    with pytest.raises(RequestError, match="model.wrn_preact=tf there, usb here"):
        begun(tmp_path / "run", **keys)


def test_weights_are_read_once(source, tmp_path, capsys):
    """A resumed run goes on to the bit without what it began from."""
    place = shutil.copytree(source[0], tmp_path / "source")
    keys = {**FIXMATCH, FROM: str(place)}
    whole = runs.run(tmp_path / "run", **keys)
    assert "begins from step 7" in capsys.readouterr().out
    assert whole["config"]["model"]["init_from"] == str(place)
    shutil.rmtree(place)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    (tmp_path / "run" / workdir.RESULT_FILE).unlink()
    halves = runs.run(tmp_path / "run", **keys)
    out = capsys.readouterr().out
    assert "resumed at step 2" in out and "begins" not in out
    assert halves["fingerprint"] == whole["fingerprint"]
    with pytest.raises(RequestError, match="does not exist"):
        runs.run(tmp_path / "new", **keys)
    assert not (tmp_path / "new").exists()
    with pytest.raises(RequestError, match=f"init_from: {place} there, None here"):
        runs.run(tmp_path / "run", **FIXMATCH)
