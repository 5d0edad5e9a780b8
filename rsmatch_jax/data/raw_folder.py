"""Folders of pictures that stand where a dataset or a pool should: what to do then."""

import contextlib
import itertools
import os
import shlex
from collections.abc import Generator

from rsmatch_jax import files
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_SEARCHED = 1000  # folders


@contextlib.contextmanager
def explained(key: str, name: str) -> Generator[None]:
    """Names the importer if the block raises RequestError and `name` holds pictures.
    key: data.name or data.synthetic_pool, which has the value `name`."""
    try:
        yield
    except RequestError as e:
        path = files.absolute(name)
        if not _holds_pictures(path):
            raise
        quoted = shlex.quote(path)
        generator = " --generator=NAME" if key == "data.synthetic_pool" else ""
        way_out = (
            f"import it by `rsmatch import --layout=folders --source={quoted}"
            f"{generator} --out=DIR` and pass --config.{key}=DIR"
        )
        if not generator:
            way_out += f"; or pass --config=own --config.data.labeled={quoted}"
        message = f"{key}={name} holds pictures, but is no dataset: {way_out}"
        # A bare name is first a dataset's, so what failed stays the main thing.
        is_bare = os.path.basename(name) == name
        raise RequestError(f"{e} ({message})" if is_bare else message) from None


def _holds_pictures(path: str) -> bool:
    """Whether a path is an archive, or a folder of pictures that is no dataset."""
    if os.path.isfile(path):
        return path.lower().endswith(_ARCHIVES)
    if dataset_folder.is_dataset(path) or arrays.is_array_folder(path):
        return False
    try:
        from rsmatch_jax.data.images import kinds  # lazy: needs Pillow
    except ImportError:
        return False  # the caller's message stays
    for _, folders, names in itertools.islice(os.walk(path), _SEARCHED):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(map(kinds.is_image, names)):
            return True
    return False
