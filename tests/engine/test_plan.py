"""`--plan --target`: would a run fit a device that is not there?"""

import pytest
from support.helpers import TINY, build

from rsmatch_jax.engine import described, plan
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime import targets

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "peak", "fits"),
    [
        # JAX reserves three quarters of a GPU's memory, and all of a TPU's.
        ("h100:8", 59 * GIB, True),
        ("h100", 60 * GIB, False),
        ("v5e", 16 * GIB, True),
        ("v5e", 17 * GIB, False),
    ],
)
def test_a_step_fits_or_is_refused(monkeypatch, name, peak, fits):
    """The compiler's answer is replaced; tests/compiled has a real one."""
    seen = []

    def compiled(exp, images, target):
        seen.append(images.unl_images.shape)
        return described.Program("", 2 * GIB, peak - 2 * GIB, peak, 10, 1.0)

    monkeypatch.setattr(described, "compiled", compiled)
    _, task, exp = build(**{"method.name": "fixmatch", **TINY})
    target = targets.read(name)
    if fits:
        line = plan.fit(exp, task, target)
        assert line.startswith(f"fits: compiled, not run, for {target.count} ")
        assert f"{peak // GIB}.0 GiB on each device" in line and target.name in line
    else:
        with pytest.raises(RequestError, match="lower train.batch_size") as refused:
            plan.fit(exp, task, target)
        assert f"{peak // GIB}.0 GiB" in str(refused.value)
    assert seen == [(len(task.unl_images), task.unl_images[0].size)]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"input.mode": "resident", "input.resident_budget_gb": 0.0}, "raise it"),
        ({"input.mode": "tfdata", "train.candidate_ratio": 5}, "screens images"),
        ({"train.real_rows": 3, "data.synthetic_ratio": 0.0}, "known to be synthetic"),
    ],
)
def test_a_run_that_cannot_start_does_not_fit(keys, words):
    _, task, exp = build(**{**TINY, **keys})
    with pytest.raises(RequestError, match=words):
        plan.fit(exp, task, targets.read("h100"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "4 labelled + 8 unlabelled images (0.6 passes)"),
        ({"train.candidate_ratio": 5}, "8 unlabelled images of 20 candidates (0.6"),
        ({"train.real_rows": 3}, "8 unlabelled images, 3 of them real, (0.6 passes)"),
    ],
)
def test_how_a_step_chooses_its_images_is_shown(keys, words):
    _, task, exp = build(**keys)
    assert words in "\n".join(plan.describe(exp, task, "cpu"))
