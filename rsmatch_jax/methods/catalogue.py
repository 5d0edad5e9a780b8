"""Every method by name. A new one is a file in this folder and a line here."""

from rsmatch_jax.methods import keys
from rsmatch_jax.methods.base import Dims, Method
from rsmatch_jax.methods.baselines import SelfTraining, Supervised
from rsmatch_jax.methods.iomatch import IOMatch
from rsmatch_jax.methods.openmatch import OpenMatch
from rsmatch_jax.methods.rsmatch import RSMatch
from rsmatch_jax.methods.rules import RULES
from rsmatch_jax.methods.scomatch import SCOMatch
from rsmatch_jax.methods.simmatch import SimMatch

__all__ = ["METHODS", "RULES", "Dims", "Method", "blocks_in_use", "owners", "readers"]

METHODS: dict[str, type[Method]] = {
    "rsmatch": RSMatch,
    **dict.fromkeys(RULES, SelfTraining),
    "simmatch": SimMatch,
    "iomatch": IOMatch,
    "openmatch": OpenMatch,
    "scomatch": SCOMatch,
    "supervised": Supervised,
}


def blocks_in_use(config: keys.Config) -> dict[str, str]:
    """Returns {block of `method`: config key that chooses it}, of method and rule."""
    name = config.method.name
    used = {name: "method.name"}
    rule_key = METHODS[name].rule_key
    if rule_key:
        used.setdefault(keys.get(config, rule_key), rule_key)
    return used


def owners(block: str) -> list[str]:
    """Returns the settings, such as "method.name=flexmatch", that read a block."""
    names = [f"method.name={block}"] if block in METHODS else []
    rule_keys = dict.fromkeys(m.rule_key for m in METHODS.values() if m.rule_key)
    if block in RULES:
        names += [f"{key}={block}" for key in rule_keys if key != "method.name"]
    return names


def readers(path: str) -> list[str]:
    """Returns the methods that read a dotted key outside their block."""
    return [
        name for name, cls in METHODS.items() if path in keys.paths(cls, name).values()
    ]


def check(config: keys.Config):
    """Raises RequestError for keys out of bounds, in all blocks, and for keys in use
    that do not fit each other."""
    for name, cls in [*METHODS.items(), *RULES.items()]:
        keys.check(cls, name, config)
    METHODS[config.method.name].check(config)
    for block in blocks_in_use(config):
        if block in RULES:
            RULES[block].check(config)
