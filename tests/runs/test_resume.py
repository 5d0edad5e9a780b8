"""Interrupted and resumed runs against undisturbed ones."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from support.helpers import assert_bit_equal, leaves
from support.runs import (
    ONE_NETWORK,
    first_state,
    killed_copy,
    lines,
    run,
    saved_state,
    timeless,
)

from rsmatch_jax.engine import feed
from rsmatch_jax.methods.catalogue import METHODS
from rsmatch_jax.runs import history, workdir

BARE = {"supervised", "fixmatch"}  # see also runtime/test_stopping.py
# Every method with buffers or a loss of shadow weights, and FixMatch from tf.data;
# RSMatch on another rule, with an estimated prior and with statistics.
RESUMED = {
    **{name: {"method.name": name} for name in sorted({*METHODS} - BARE)},
    "rsmatch": {"input.randaugment_ops": 3},
    "simmatch": {"method.name": "simmatch", "method.simmatch.warmup_steps": 1},
    "iomatch": {"method.name": "iomatch", "method.iomatch.align": True},
    # The out threshold is renewed in step 1, from confident predictions.
    "scomatch": {
        "method.name": "scomatch",
        "method.threshold": 0.1,
        "train.unlabeled_ratio": 80,
    },
    "tfdata": {"input.mode": "tfdata", "method.name": "fixmatch"},
    "rsmatch_judges": {
        "method.rsmatch.detector_loss": "queue+nnpu",
        "method.rsmatch.routing": "statistics",
        **ONE_NETWORK,
    },
    "rsmatch_screened": {
        "method.rsmatch.prior": "statistics",
        "method.rsmatch.routing": "statistics",
        "train.candidate_ratio": 4,
        **ONE_NETWORK,
    },
    "rsmatch_split": {
        "model.split_bn": True,
        "method.rsmatch.routing": "statistics",
        "method.rsmatch.pseudo_label": "freematch",
    },
}


class Killed(Exception):
    pass


@pytest.fixture
def dispatch(monkeypatch):
    """dispatch(n): later runs take n steps a dispatch, as on a GPU, but without its
    loop, in which a CPU rounds otherwise; dispatch(n, kill_after=m): they end with an
    exception after m of them."""

    def set_length(most, kill_after=None):
        calls = itertools.count()

        class Source(feed.ResidentFeed):
            def run(self, state, done, room):
                if next(calls) == kill_after:
                    raise Killed
                count, metrics = most if room >= most else 1, []
                for step in range(done, done + count):
                    state, one = super().run(state, step, 1)
                    metrics.append(one.metrics)
                metrics = jax.tree.map(lambda *values: jnp.stack(values), *metrics)
                return state, history.Dispatched(metrics, count)

        monkeypatch.setattr(feed, "make", lambda exp, task: (Source(exp, task, 1), ""))

    return set_length


def assert_alike(folder, other, step, like):
    assert_bit_equal(*(saved_state(f, step, like) for f in (folder, other)))
    assert lines(folder) == lines(other)


@pytest.mark.parametrize("case", RESUMED)
def test_four_steps_equal_two_restore_two(tmp_path, capsys, case):
    """State, metrics and result are equal to the bit. At the break, each buffer of the
    method differs from that of a fresh start."""
    keys = RESUMED[case]
    whole = run(tmp_path / "whole", **keys)
    killed_copy(tmp_path / "whole", tmp_path / "halves", last=4)
    first = first_state(**keys)
    fresh = leaves(first.extra)
    kept = leaves(saved_state(tmp_path / "halves", 2, first).extra)
    assert all((fresh[path] != kept[path]).any() for path in kept)
    capsys.readouterr()
    halves = run(tmp_path / "halves", **keys)
    assert "resumed at step 2" in capsys.readouterr().out
    assert_alike(tmp_path / "whole", tmp_path / "halves", 4, first)
    assert timeless(whole) == timeless(halves)
    assert [x["step"] for x in lines(tmp_path / "whole")] == [2, 3, 4, 4]


def test_another_number_of_steps_a_dispatch_changes_no_bit(tmp_path, dispatch):
    """Logging at 3 and 6, saving at 2, 4 and 6, dispatches of 3; then of 2, a break
    in mid-interval, and 4."""
    keys = {"method.name": "fixmatch", "train.num_steps": 7, "log.every_steps": 3}
    dispatch(3)
    whole = run(tmp_path / "whole", **keys)
    dispatch(2, kill_after=4)
    with pytest.raises(Killed):
        run(tmp_path / "parts", **keys)
    assert workdir.read_result(str(tmp_path / "parts"))["status"] == "failed"
    dispatch(4)
    parts = run(tmp_path / "parts", **keys, **{"train.steps_per_dispatch": 4})
    assert_alike(tmp_path / "whole", tmp_path / "parts", 7, first_state(**keys))
    del whole["config"], parts["config"]
    assert timeless(whole) == timeless(parts)
    logged = [x["step"] for x in lines(tmp_path / "whole") if "train/loss" in x]
    assert logged == [3, 6, 7]
