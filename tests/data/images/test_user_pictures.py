"""Forms in which people have their pictures, and what must come out of each."""

import contextlib

from support.pictures import encode, noise

from rsmatch_jax.data.images import user_pictures

PNG = encode(noise(8, 8, 3))


def labelled(source, classes=()):
    with contextlib.ExitStack() as stack:
        return user_pictures.labelled(stack, str(source), "data.labeled", classes)


def files(*names):
    return {name: PNG for name in names}
