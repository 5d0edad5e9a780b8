"""Rows are named by what differs between settings, and by nothing else."""

import itertools

import pytest

from rsmatch_jax.report import grid, row_names
from rsmatch_jax.report.row_names import Setting


def setting(method="rsmatch", dataset="digits", **keys):
    plain = grid.setting(grid.load_config("common").to_dict())
    changed = {key.replace("__", "."): value for key, value in keys.items()}
    assert changed.keys() <= plain.keys()
    names = {"method.name": method, "data.name": dataset}
    return Setting(method, dataset, {**plain, **names, **changed})


def test_what_all_share_is_not_named():
    """Not even if it differs from the default."""
    both = {"train__num_steps": 7}
    names, note = row_names.of_settings(
        [setting(**both), setting(**both, train__candidate_ratio=12)]
    )
    assert names == ["rsmatch", "candidate_ratio=12"]
    assert note == "Where a row says nothing else: train.candidate_ratio=None."
    names, note = row_names.of_settings([setting(**both)])
    assert names == ["rsmatch on digits"] and note is None


def test_methods_and_datasets_are_named_where_they_differ():
    names, _ = row_names.of_settings(
        [
            setting("supervised"),
            setting("fixmatch"),
            setting("fixmatch", data__real_only=True),
            # A key of one method is named beside others, which have none.
            setting(train__candidate_ratio=12, method__rsmatch__prior="statistics"),
        ]
    )
    assert names == [
        *("supervised", "fixmatch", "fixmatch, real_only=True"),
        "rsmatch, prior=statistics, candidate_ratio=12",
    ]
    # What comes with another dataset is not named.
    other = setting(dataset="cifar10", data__labels_per_class=40)
    names, _ = row_names.of_settings([setting(), other])
    assert names == ["digits", "cifar10"]


def test_the_default_is_usual_even_if_it_is_rare():
    twelve = {"train__candidate_ratio": 12}
    names, _ = row_names.of_settings(
        [setting(**twelve), setting(**twelve, train__num_steps=7), setting()]
    )
    assert names == ["candidate_ratio=12", "candidate_ratio=12, num_steps=7", "rsmatch"]


def test_without_a_default_among_them_the_most_frequent_value_is_usual():
    steps = [
        setting(train__num_steps=n, train__batch_size=b)
        for n, b in ((5, 1), (6, 2), (6, 3))
    ]
    names, note = row_names.of_settings(steps)
    assert names == ["num_steps=5", "batch_size=2", "batch_size=3"]
    assert note.endswith("else: train.batch_size=1, train.num_steps=6.")


@pytest.mark.parametrize("seed", range(3))
def test_names_differ(seed):
    values = {
        "train__num_steps": (5, 6),
        "data__real_only": (False, True),
        "method__rsmatch__routing": ("detector", "oracle", "statistics"),
    }
    combined = itertools.product(*values.values())
    made = [setting(**dict(zip(values, v, strict=True))) for v in combined]
    names, _ = row_names.of_settings(made[seed:])
    assert len(set(names)) == len(made) - seed


def test_keys_with_the_same_end_are_told_apart():
    assert row_names._short(["a.b.x", "a.c.x", "d.y", "d.e.z", "f.e.z"]) == {
        "a.b.x": "b.x",
        "a.c.x": "c.x",
        "d.y": "y",
        "d.e.z": "d.e.z",
        "f.e.z": "f.e.z",
    }
