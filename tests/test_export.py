"""The exported file gives the numbers of predict, and holds nothing else."""

import dataclasses
import functools
import hashlib
import json

import jax
import numpy as np
import pytest
from support import pictures, workdirs

from rsmatch_jax import export
from rsmatch_jax.deploy import card as model_card
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.models import networks, resnet
from rsmatch_jax.runs import workdir
from rsmatch_jax.version import __version__

PROGRAM = 20_000  # bytes, at most, beside the numbers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    workdirs.make(root / "run", steps=(3, 7))
    (root / "out").mkdir()
    return root


def ask(root, *argv):
    return export.main([f"--workdir={root}/run", *argv])


def noise(count, size=8):
    return pictures.noise(count, size, size, 3, seed=count)


def load(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


def test_outputs_are_those_of_predict(root):
    out = root / "out" / "model"
    assert ask(root, f"--out={out}", "--step=3") == 0
    model = load(out)
    assert model.platforms == ("cpu", "cuda", "tpu")
    mine = frozen.load(f"{root}/run", "3")
    for count in (1, 2, 7):
        p = np.asarray(model.call(noise(count)))
        assert p.dtype == np.float32 and p.max() < 0.99
        np.testing.assert_allclose(
            p, mine.predict(noise(count)).probabilities, atol=1e-6
        )
    with pytest.raises(ValueError, match="shape"):
        model.call(noise(2, 9))
    with pytest.raises(ValueError, match="uint8"):
        model.call(noise(2).astype(np.float32))


def size_and_module(**overrides):
    run, _ = workdirs.in_memory(**overrides)
    run = dataclasses.replace(run, state=workdirs.unlike(run.state, 7))
    program = export.exported(run)
    return run, bytes(program.serialize()), program.mlir_module()


QUEUES = {"method.rsmatch.queue_length": 3, "method.rsmatch.queue_sample": "uniform"}


def test_neither_detector_nor_queue_nor_fake_head_is_in_it():
    """By size, by name, and by the shape of every constant."""
    run, data, module = size_and_module(**{"model.detector": "wrn_10_1"})
    state = run.state
    needed = (
        state.ema["classifier"]["encoder"],
        state.ema["classifier"]["heads"]["real"],
        state.stats["classifier"],
    )
    floats = sum(leaf.size for leaf in jax.tree.leaves(needed))
    assert 4 * floats < len(data) < 4 * floats + PROGRAM
    detector = sum(leaf.size for leaf in jax.tree.leaves(state.ema["detector"]))
    assert 4 * detector > PROGRAM  # it would show
    for word in ("fake", "detector", "queue", "synthetic", "opt_state"):
        assert word not in module and word.encode() not in data, word
    slots = state.extra["queue"].images.shape
    assert "x".join(map(str, slots)) not in module
    assert state.extra["queue"].images.nbytes > PROGRAM
    # Another queue or method with the same network changes only the numbers.
    one = {**QUEUES, "method.rsmatch.individual_models": False}
    for keys in (one, {"method.name": "simmatch"}):
        assert abs(len(size_and_module(**keys)[1]) - len(data)) < 64, keys


def test_bfloat16_runs():
    """For all platforms, in a process with only a CPU."""
    run, data, module = size_and_module(**{"model.dtype": "bfloat16"})
    assert "bf16" in module
    model = jax.export.deserialize(bytearray(data))
    p = np.asarray(model.call(noise(5)))
    assert p.dtype == np.float32
    mine = frozen.Model(run).predict(noise(5))
    np.testing.assert_allclose(p, mine.probabilities, atol=2e-3)


def test_a_resnet_is_exported_for_all_platforms(monkeypatch):
    """Two stages of a block have all layers of the larger networks."""
    small = functools.partial(resnet.ResNet, blocks=(1, 1), bottleneck=True)
    monkeypatch.setitem(networks.MODELS, "resnet50", small)
    keys = {"model.classifier": "resnet50", "method.name": "supervised"}
    run, data, _ = size_and_module(**keys)
    model = jax.export.deserialize(bytearray(data))
    mine = frozen.Model(run).predict(noise(3))
    np.testing.assert_allclose(
        np.asarray(model.call(noise(3))), mine.probabilities, atol=1e-6
    )


def test_the_card_says_what_the_file_is(root):
    line = {"step": 7, "eval/test_accuracy": 0.625, "eval/test_top5": 1.0}
    other = {"step": 3, "eval/test_accuracy": 0.5}
    folder, out = root / "run", root / "out" / "card.bin"
    (folder / "metrics.jsonl").write_text(
        "\n".join(map(json.dumps, [line, {"step": 7, "train/loss": 1.0}, other]))
        + '\n{"step": 8, "eval/test_accuracy": 0.'  # of a killed run
    )
    (folder / "result.json").write_text(
        '{"test_accuracy": 0.1, "test_accuracy_best": 0.75, "status": "running"}'
    )
    try:
        assert ask(root, f"--out={out}") == 0
    finally:
        (folder / "metrics.jsonl").unlink()
        (folder / "result.json").unlink()
    card = json.loads((root / "out" / "card.bin.json").read_text())
    text = (root / "out" / "card.bin.md").read_text()
    data = out.read_bytes()
    assert card["file"] == {
        "format": "jax.export",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "platforms": ["cpu", "cuda", "tpu"],
    }
    assert card["classes"] == [f"class_{k}" for k in range(10)]
    assert card["input"]["shape"] == ["b", 8, 8, 3]
    assert card["training"]["step"] == 7
    assert card["training"]["generators"] == ["generator_a", "generator_b"]
    assert card["figures"] == {
        "test_accuracy": 0.625,
        "validation_accuracy": None,
        "test_accuracy_best": 0.75,
        "test_accuracy_median20": None,
    }
    assert card["versions"] == {"rsmatch_jax": __version__, "jax": jax.__version__}
    for words in (
        "# card.bin\n",
        "A tiny that tells 10 classes of fake apart, trained by rsmatch on 40",
        "test accuracy, this checkpoint",
        "62.50 %",
        "75.00 %",
        "0: class_0, 1: class_1",
        "crop the central square",
        card["file"]["sha256"],
    ):
        assert words in text, words
    assert "10.00 %" not in text  # of the last step, which may be another one


def test_the_cards_example_runs_and_no_file_names_a_folder(root, monkeypatch):
    out = root / "out" / "example.bin"
    assert ask(root, f"--out={out}") == 0
    data, text = out.read_bytes(), (root / "out" / "example.bin.md").read_text()
    for word in (b"rsmatch_jax", b"site-packages", b".py", str(root).encode()):
        assert word not in data
    assert str(root) not in text + (root / "out" / "example.bin.json").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(root / "out")
    names = {}
    exec(code, names)
    assert names["probabilities"].shape == (5, 10)


def card_of(folder):
    run = saved.load(str(folder))
    return model_card.card(run, size=1, digest="", platforms=["cpu"])


def test_the_card_of_an_encoded_run_says_how_images_are_cut(tmp_path):
    workdirs.make_encoded(tmp_path, 16)
    card = card_of(tmp_path)
    assert "0.875" in card["input"]["other_sizes"]
    assert "0.875" in model_card.text(card, "x")
    many = {**card, "classes": [f"c{i}" for i in range(1000)]}
    assert "and 980 more, in `x.json`" in model_card.text(many, "x")


def test_the_card_of_labels_alone_names_no_other_images(tmp_path):
    workdirs.make(tmp_path, **{"method.name": "supervised"})
    card = card_of(tmp_path)
    assert workdir.read_data(str(tmp_path))["generator_names"]
    assert card["training"]["generators"] == []
    assert card["training"]["unlabelled_images"] == 0
    printed = model_card.text(card, "x")
    assert "40 labelled images. Step 7" in printed and "synthetic (" not in printed


@pytest.mark.parametrize("real_bn", [False, True])
def test_the_card_has_no_accuracies_of_other_statistics(tmp_path, real_bn):
    """With eval.real_bn a run is evaluated by statistics that no file keeps."""
    run, _ = workdirs.in_memory(**{"eval.real_bn": real_bn})
    run = dataclasses.replace(run, folder=str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/test_accuracy": 0.5}\n')
    (tmp_path / "result.json").write_text('{"test_accuracy_best": 0.75}')
    card = model_card.card(run, size=1, digest="", platforms=["cpu"])
    figures = [x for x in card["figures"].values() if x is not None]
    assert figures == ([] if real_bn else [0.5, 0.75])
    assert ("| 50.00 %" in model_card.text(card, "x")) != real_bn


SOME = {"origins": 40, "images": 640}
ALL = {"origins": 640, "images": 640}
UNKNOWN_SHARE = "unlabelled images, an unknown share of the latter synthetic. Step"


@pytest.mark.parametrize(
    ("method", "data", "known", "generators", "ratio", "words"),
    [
        ("supervised", "own", SOME, (), 0.0, "40 labelled images. Step"),
        ("fixmatch", "own", SOME, (), None, UNKNOWN_SHARE),
        ("fixmatch", "own", None, (), None, UNKNOWN_SHARE),
        ("fixmatch", "own", ALL, (), 0.0, "unlabelled images. Step"),
        ("fixmatch", "own", ALL, ("a",), None, UNKNOWN_SHARE),
        ("fixmatch", "/a/folder", SOME, (), None, UNKNOWN_SHARE),
        ("fixmatch", "/a/folder", ALL, ("a",), 0.25, "25 % of the latter"),
        ("fixmatch", "/a/folder", None, ("a",), 0.25, "synthetic (a). Step"),
    ],
)
def test_the_card_says_what_is_known_of_origins(
    method, data, known, generators, ratio, words, tmp_path
):
    run, _ = workdirs.in_memory(**{"method.name": method, "data.synthetic_ratio": 0.25})
    config = run.exp.config.copy_and_resolve_references()
    config.data.name = data
    exp = dataclasses.replace(run.exp, config=config)
    run = dataclasses.replace(
        run, folder=str(tmp_path), exp=exp, generator_names=generators
    )
    if known:
        (tmp_path / "result.json").write_text(json.dumps({"known": known}))
    card = model_card.card(run, size=1, digest="", platforms=["cpu"])
    assert card["training"]["synthetic_ratio"] == ratio
    assert words in model_card.text(card, "x")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "required: --out"),
        (["--out={root}/out/x", "--step=5"], "--step=5: there is no such checkpoint"),
        (["--out={root}/out/x", "more"], "unrecognized arguments: more"),
        (["--out={root}/run/result"], "result.json is among the files of the run"),
    ],
)
def test_wrong_requests_are_answered(root, capsys, argv, words):
    workdirs.check_refused(export.main, root / "run", argv, words, capsys)
