"""Class names as TFDS's own code gives them, without the data. Imports TensorFlow."""

import tensorflow_datasets as tfds

from rsmatch_jax.data.stores import tf_import  # noqa: F401  (sets TensorFlow up)
from rsmatch_jax.errors import RequestError

_WAY_OUT = (
    "prepare it (a training run does, or tfds build) and pass --data_dir=DIR of the "
    "prepared copy"
)


def described(name: str) -> tuple[str, ...]:
    """The class names of a TFDS dataset that is not prepared here.

    Raises: RequestError where TFDS does not know the set, or would number its classes:
    it learns many sets' names from the download alone.
    """
    try:
        features = tfds.builder(name).info.features
    except tfds.core.DatasetNotFoundError:
        raise RequestError(
            f"--dataset={name} is neither a dataset that TFDS knows nor a folder"
        ) from None
    except Exception as e:
        # TFDS raises anything here: a set may need a package that is not installed.
        lines = str(e).strip().splitlines() or [type(e).__name__]
        raise RequestError(
            f"TFDS cannot describe {name}: {lines[0][:300]}; {_WAY_OUT}"
        ) from e
    label = features["label"] if features and "label" in features else None
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise RequestError(f"{name} has no class label; only labelled images serve")
    names = tuple(label.names)
    if names == tuple(str(i) for i in range(len(names))):
        raise RequestError(
            f"TFDS does not know the class names of {name} before it is here; "
            f"{_WAY_OUT}"
        )
    return names
