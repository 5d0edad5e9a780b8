"""Fills the templates of the pages that the package writes."""

import os
from typing import Any

import jinja2


def filled(module: str, name: str, **values: Any) -> str:
    """Returns the template `name` in the folder of a module's file, with its values;
    what they hold is escaped, and an absent one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(module)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**values)
