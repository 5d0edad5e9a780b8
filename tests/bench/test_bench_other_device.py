"""The counts of a compiled program, from modules written by hand."""

import pathlib

import pytest

from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench.harness import counts, hlo, traffic
from rsmatch_jax.runtime import targets

# A step of two networks. Bytes by hand stand beside each kernel.
MODULE = (pathlib.Path(__file__).parent / "step_module.hlo.txt").read_text()
# {scope: (kernels, bytes)}.
SCOPES = {
    "views": (1 + 3, 2 * 8 * 3072 + 8 * 4 + 3 * 2 * 40),
    "queue": (1, 2 * 8 * 4 + 4),
    # A slice of 600 of 1000 numbers; then image, kernel and result.
    "classifier forward": (2, 600 * 6 + 2 * (8 * 1024 * 16 + 4608 + 8 * 256 * 32)),
    "classifier backward": (2, 600 * 6 + 2 * (8 * 1024 * 16 + 4608 + 8 * 256 * 32)),
    "detector forward": (1, 8000),
    "losses and metrics": (1, 8000),
    "rest": (1, 8000),
    "EMA": (1, 12000),
}


@pytest.fixture
def content():
    networks = ["classifier", "detector"]
    return counts.of_module(hlo.Module(MODULE), networks, targets.read("h100"), 1)


def test_kernels_and_bytes_by_scope(content):
    scopes = {k: (v["kernels"], v["bytes"]) for k, v in content["scopes"].items()}
    assert scopes == SCOPES
    assert content["totals"]["kernels"] == sum(n for n, _ in SCOPES.values())
    assert content["totals"]["bytes"] == sum(b for _, b in SCOPES.values())


def test_kinds_operations_and_the_floor(content):
    kinds = content["kinds"]
    assert {k: v["kernels"] for k, v in kinds.items()} == {
        "fusion": 2,
        "copy": 2,
        "negate": 3,
        "add": 1,
        "collective": 3,
        "convolution, forward": 1,
        "convolution, weight gradient": 1,
    }
    gflop = 2 * 8 * 16 * 16 * 32 * 3 * 3 * 16 / 1e9
    for name in ("convolution, forward", "convolution, weight gradient"):
        assert kinds[name]["conv_gflop"] == pytest.approx(gflop)
        # Few pixels: memory is slower than products.
        moved = 2 * (8 * 1024 * 16 + 4608 + 8 * 256 * 32)
        floor = 1e3 * moved / 3.352e12
        assert kinds[name]["floor_ms"] == pytest.approx(floor)
        assert kinds[name]["estimate_ms"] == pytest.approx(0.002 + floor / 0.65)
    exchange = 3 * (0.01 + 1e3 * 8000 / 3.352e12 / 0.65)
    assert kinds["collective"]["estimate_ms"] == pytest.approx(exchange)
    assert content["totals"]["conv_gflop"] == pytest.approx(2 * gflop)


def test_what_holds_of_the_whole_program(content):
    assert content["collectives"] == {"count": 3, "bytes": 24000, "longest_chain": 2}
    assert content["aliased_leaves"] == 2
    assert content["copies_of_a_parameter"] == 2
    assert content["host_transfers"] == content["conditionals"] == 0
    assert content["loops_of_unknown_length"] == 0


def test_what_a_host_waits_for():
    text = MODULE.replace('backend_config={"known_trip_count":{"n":"3"}}', "")
    text = text.replace("%a = f32[1000]{0} parameter(0)", "", 1)
    text = text.replace(
        "  %at = ",
        '  %a = f32[1000]{0} custom-call(), target="xla_python_callback"\n  %at = ',
    )
    module = hlo.Module(text)
    assert traffic.unknown_loops(module) == 1
    assert traffic.host_transfers(module) == 1


def test_a_dispatch_of_several_steps_counts_one():
    module, target = hlo.Module(MODULE), targets.read("h100")
    one, two = (counts.of_module(module, ["classifier"], target, n) for n in (1, 2))
    for key, value in one["totals"].items():
        assert two["totals"][key] == pytest.approx(value / 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--target=h100"),
        (["--target=h1000"], "a100, h100, h200, v5e, v6e"),
        (["--target=h100:0"], "1 to 64 devices"),
        (["--target=h100", "--devices=65"], "1 to 64 devices"),
        (["--target=h100:8", "--devices=8"], "h100:8:8"),
        (["--target=v5e:16"], "1 to 8 devices"),
        (["--target=h100", "--steps=1.5"], "--steps=1.5"),
        (["--target=h100", "--method=none"], "method.name"),
        (["--target=h100:3"], "3 devices"),
        (["--target=h100"], "pip install 'jax[cuda12]', which needs no device"),
    ],
)
def test_wrong_requests(capsys, flags, words):
    assert bench.main(["compiled", *flags]) == 2
    assert words in capsys.readouterr().err


def test_sizes_of_shapes():
    sizes = {"pred[3]": 3, "bf16[2,4]{1,0}": 16, "f8e4m3fn[5]": 5, "c64[2]": 16}
    sizes |= {"(f32[], s64[2]{0}, u8[0]{0})": 20}
    assert {shape: traffic.size(shape) for shape in sizes} == sizes
