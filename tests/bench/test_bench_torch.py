"""The PyTorch code of `bench peer` equals this project's FixMatch: network, step and
views. Skipped without PyTorch."""

import functools
import itertools
import random

import jax
import numpy as np
import pytest
from support import benches

from rsmatch_jax.augment import views
from rsmatch_jax.bench.harness import workload
from rsmatch_jax.bench.rivals import pillow_views
from rsmatch_jax.models import networks
from rsmatch_jax.runtime import parallel

MEAN, STD = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
SPEC = views.ViewSpec(flip=True, crop_pad=2, randaugment_ops=3, cutout=True)


NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
NAMES["var"] = "running_var"


def in_torch(tree):
    """{name there: numpy array} of our parameters or running statistics."""
    result = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        *modules, name = (key.key for key in path)
        x = np.asarray(x)
        if name == "kernel":
            x = x.transpose((3, 2, 0, 1) if x.ndim == 4 else (1, 0))
        result[".".join([*modules, NAMES.get(name, name)])] = x
    return result


def copy_into(torch, network, *trees):
    """Parameters and statistics; both networks have the same."""
    state = {}
    for tree in trees:
        state |= {n: torch.from_numpy(x.copy()) for n, x in in_torch(tree).items()}
    counters = {n for n in network.state_dict() if n.endswith("num_batches_tracked")}
    assert set(state) == set(network.state_dict()) - counters
    network.load_state_dict(state, strict=False)


def test_the_networks_compute_the_same(torch):
    """In training, and then with their running statistics."""
    from rsmatch_jax.bench.rivals import torch_fixmatch

    name = "wrn_16_2"  # has blocks of equal widths, too
    flags = [f"--config.model.classifier={name}", "--config.model.bn_momentum=0.9"]
    exp = benches.experiment("fixmatch", *flags)
    net = networks.make(name, {"real": 10}, bn_momentum=0.9)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 16, 16, 3)))

    def values(tree, *ends):
        return jax.tree.map(lambda x: np.float32(rng.uniform(*ends, x.shape)), tree)

    params, stats = values(shapes[0], -0.3, 0.3), values(shapes[1], 0.5, 1.5)
    there = torch_fixmatch.WideResNet(exp)
    copy_into(torch, there, params, stats)
    x = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
    y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    apply = jax.jit(net.apply, static_argnums=3)
    got, stats = apply(params, stats, x, True)
    close(there(y).detach(), got.logits["real"])
    buffers = dict(there.named_buffers())
    for n, value in in_torch(stats).items():
        close(buffers[n], value)
    want, _ = apply(params, stats, x, False)
    close(there.eval()(y).detach(), want.logits["real"])


def close(got, want, tolerance=1e-4):
    want = np.asarray(want)
    np.testing.assert_allclose(
        np.asarray(got), want, rtol=tolerance, atol=tolerance * np.abs(want).max()
    )


STEP_FLAGS = (
    "--config.train.unlabeled_ratio=2",
    # So that a pseudo-label counts at once, and every term shows.
    "--config.method.threshold=0.155",
    "--config.method.unsup_weight=0.7",
    "--config.optim.weight_decay=0.1",
    "--config.optim.ema_decay=0.6",
    "--config.train.num_steps=3",
)


@pytest.fixture(scope="module")
def two_steps():
    """(experiment, first state, [state and metrics after each step]) of ours."""
    exp = benches.experiment("fixmatch", *STEP_FLAGS)
    first = jax.device_get(exp.init_state())
    batch = parallel.shard_rows(workload.random_batch(exp), exp.devices)
    step, state, after = exp.train_step(), exp.init_state(), []
    for _ in range(2):
        state, metrics = step(state, batch)
        after.append(jax.device_get((state, metrics)))
    return exp, first, after


@pytest.mark.parametrize("kind", ["usb", "lean"])
def test_the_steps_do_the_same(torch, two_steps, kind, monkeypatch):
    """Loss, parameters and averaged weights after two steps. The second has momentum
    and a lower learning rate."""
    from rsmatch_jax.bench.rivals import torch_fixmatch, torch_programs

    exp, first, after = two_steps
    cpu, make = torch.device("cpu"), torch_fixmatch.WideResNet

    def ours(exp):
        network = make(exp)
        trees = first.params["classifier"], first.stats["classifier"]
        copy_into(torch, network, *trees)
        return network

    monkeypatch.setattr(torch_fixmatch, "WideResNet", ours)
    batch = torch_programs.placed(exp, cpu)
    if kind == "usb":
        program = torch_fixmatch.AsInUSB(exp, cpu)
        step = functools.partial(program.step, batch)
    else:
        program = torch_fixmatch.Lean(exp, batch, bfloat16=False, compiled=False)
        step = program.step
    assert 0 < after[0][1]["utilisation"] < 1
    for state, metrics in after:
        logged = step()
        if kind == "usb":
            assert logged == pytest.approx({k: float(metrics[k]) for k in logged}, 1e-4)
        parameters = dict(program.network.named_parameters())
        for tree, there in ((state.params, parameters), (state.ema, named(program))):
            for name, x in in_torch(tree["classifier"]).items():
                close(there[name].detach(), x)
    buffers = dict(program.network.named_buffers())
    assert buffers["encoder.bn.num_batches_tracked"] == 2
    if kind == "usb":  # evaluates with the network's own statistics
        for name, buffer in program.averaged.named_buffers():
            assert torch.equal(buffer, buffers[name])


def named(program):
    """{name: averaged weight}."""
    if isinstance(program.averaged, list):
        names = [name for name, _ in program.network.named_parameters()]
        return dict(zip(names, program.averaged, strict=True))
    return dict(program.averaged.named_parameters())


def test_lean_torch_goes_on_where_nothing_compiles(torch, two_steps, monkeypatch):
    from rsmatch_jax.bench.rivals import torch_fixmatch, torch_programs

    def compile_(function):
        def broken(batch):
            function(batch).backward()
            raise RuntimeError("no compiler")

        return broken

    monkeypatch.setattr(torch, "compile", compile_)
    exp, cpu = two_steps[0], torch.device("cpu")
    batch = torch_programs.placed(exp, cpu)
    program = torch_fixmatch.Lean(exp, batch, bfloat16=False, compiled=True)
    assert (program.form, program.failure) == ("eager", "RuntimeError: no compiler")
    assert all(p.grad is None for p in program.network.parameters())
    program.step()


def test_lean_torch_in_bfloat16_has_float32_weights(torch, two_steps):
    from rsmatch_jax.bench.rivals import torch_fixmatch, torch_programs

    exp, cpu = two_steps[0], torch.device("cpu")
    batch = torch_programs.placed(exp, cpu)
    program = torch_fixmatch.Lean(exp, batch, bfloat16=True, compiled=False)
    seen = set()
    for module in program.network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, x, y: seen.add(y.dtype))
    program.step()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in program.averaged} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in program.averaged)


def test_the_loader_makes_pillows_views(torch):
    """With one worker, whose random numbers this test repeats."""
    from rsmatch_jax.bench.rivals import torch_loader

    numbers = np.random.default_rng(0)
    lab = numbers.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    unl = numbers.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(6, dtype=np.int32)
    normalisation = (tuple(MEAN), tuple(STD))
    batches = torch_loader.Batches(SPEC, lab, labels, unl, 2, 4, normalisation, seed=3)
    stream = torch_loader.stream(batches, workers=1, pinned=False)
    got = list(itertools.islice(stream, 2))
    del stream
    pillow, rng = pillow_views.PillowViews(SPEC), random.Random("3 0")

    def view(image, strong):
        made = pillow.view(image, pillow.draw(rng, 8, strong))
        return ((made / 255 - MEAN) / STD).transpose(2, 0, 1)

    seen = set()
    for views_of_lab, labels_of_lab, weak, strong in got:
        assert views_of_lab.dtype == torch.float32
        rows, others = rng.choices(range(6), k=2), rng.choices(range(20), k=4)
        assert labels_of_lab.tolist() == rows
        pairs = [(view(unl[i], False), view(unl[i], True)) for i in others]
        close(weak, [w for w, _ in pairs], 1e-5)
        close(strong, [s for _, s in pairs], 1e-5)
        close(views_of_lab, [view(lab[i], False) for i in rows], 1e-5)
        seen |= set(others)
    assert len(seen) > 4, "every batch is another one"
