"""Pseudo-labelling rules by name.

baselines.py trains with a rule alone; rsmatch.py puts its detector and its two heads on
top of one. docs/adding-a-rule.md shows how to add one.
"""

import pkgutil

from rsmatch_jax.methods import base, keys

# By their place, so that one line adds a rule, without an import.
RULES: dict[str, type[base.Rule]] = {
    name: pkgutil.resolve_name(f"rsmatch_jax.methods.{place}")
    for name, place in {
        "fixmatch": "fixmatch:FixMatch",
        "flexmatch": "flexmatch:FlexMatch",
        "freematch": "freematch:FreeMatch",
        "softmatch": "softmatch:SoftMatch",
        "adamatch": "adamatch:AdaMatch",
    }.items()
}


def make(name: str, config: keys.Config) -> base.Rule:
    """Builds the rule from the whole config."""
    return keys.from_config(RULES[name], name, config)
