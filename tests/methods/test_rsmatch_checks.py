"""What RSMatch warns of."""

import pytest

from rsmatch_jax.methods import rsmatch_checks


def interval(shares, fill=0.5):
    return [{"detector_synthetic": s, "queue_fill": fill} for s in shares]


@pytest.mark.parametrize(
    ("steps", "first", "names"),
    [
        (interval([0.0] * 10), False, ["detector says all real"]),
        (interval([1.0] * 10), False, ["detector says all synthetic"]),
        (interval([0.0] * 10), True, []),  # it has seen no queue image yet
        (interval([0.0] * 9), False, []),  # 900 images
        (interval([0.0] * 9 + [0.01]), False, []),
        (interval([0.0, 1.0] * 5), False, []),
        (interval([0.5] * 2, fill=0.0), False, ["queue empty"]),
        (interval([0.5] * 2, fill=0.0), True, []),
    ],
)
def test_alarms(steps, first, names):
    alarms = rsmatch_checks.alarms(steps, first=first, images_a_step=100)
    assert list(alarms) == names
