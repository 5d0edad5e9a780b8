"""Names settings by what differs between them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from rsmatch_jax.report import grid
from rsmatch_jax.runs import workdir

_IN_WORDS = ("method.name", "data.name")  # "fixmatch on digits"


class Setting(NamedTuple):
    """What repetitions of a run share; keys: see `grid.setting`."""

    method: str
    dataset: str
    keys: dict[str, grid.Value]


def of_settings(settings: Sequence[Setting]) -> tuple[list[str], str | None]:
    """Returns a name for each of different settings, and a note on what it leaves out.

    A name has the method and the dataset where these differ, and the keys with another
    value than the usual one: that of configs/common.py where a setting has it, else
    the most frequent one. Keys are compared among settings of the same dataset, those
    of a single method among settings of this method, and with the default beside other
    methods, which have none.
    """
    plain = workdir.flat(grid.load_config("common").to_dict())
    changed = [_changed(setting, settings, plain) for setting in settings]
    short = _short({key for keys in changed for key in keys})
    methods, datasets = (
        len({setting[field] for setting in settings}) > 1 for field in (0, 1)
    )
    names = []
    for setting, keys in zip(settings, changed, strict=True):
        words = [setting.method] * methods + [setting.dataset] * datasets
        parts = [" on ".join(words)] if words else []
        parts += [f"{short[key]}={setting.keys.get(key)}" for key in sorted(keys)]
        alone = setting.method if len(settings) > 1 else " on ".join(setting[:2])
        names.append(", ".join(parts) or alone)
    usual: dict[str, set[grid.Value]] = {}
    for keys in changed:
        for key, value in keys.items():
            usual.setdefault(key, set()).add(value)
    texts = [f"{k}={v.pop()}" for k, v in sorted(usual.items()) if len(v) == 1]
    return (
        names,
        f"Where a row says nothing else: {', '.join(texts)}." if texts else None,
    )


def _changed(
    setting: Setting, settings: Sequence[Setting], plain: Mapping[str, grid.Value]
) -> dict[str, grid.Value]:
    """{key: usual value} of the keys in which a setting differs from it."""
    rivals = [s for s in settings if s.dataset == setting.dataset]
    several = len({s.method for s in rivals}) > 1
    changed = {}
    for key in sorted({key for s in rivals for key in s.keys} - {*_IN_WORDS}):
        of_one_method = key.startswith("method.") and key.count(".") > 1
        values = [
            s.keys.get(key)
            for s in rivals
            if s.method == setting.method or not of_one_method
        ]
        by_default = several and of_one_method and key in setting.keys and key in plain
        usual = plain[key] if by_default else _usual(key, values, plain)
        if setting.keys.get(key) != usual:
            changed[key] = usual
    return changed


def _usual(
    key: str, values: Sequence[grid.Value], plain: Mapping[str, grid.Value]
) -> grid.Value:
    if key in plain and plain[key] in values:
        return plain[key]
    return Counter(values).most_common(1)[0][0]


def _short(keys: Collection[str]) -> dict[str, str]:
    """{dotted key: its shortest end that no other key has}."""
    ends = {}
    for key in keys:
        parts, count = key.split("."), 1
        while any(
            other != key and other.split(".")[-count:] == parts[-count:]
            for other in keys
        ):
            count += 1
        ends[key] = ".".join(parts[-count:])
    return ends
