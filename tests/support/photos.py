"""A user's pictures: labelled in class folders, unlabelled of unknown origin."""

import csv

from support.pictures import encode

from rsmatch_jax.data.stores import arrays

CLASSES = 3
LABELLED, UNLABELLED, TEST = 8, 20, 8  # of each class; unlabelled ones of each origin


def make(root):
    """Writes labelled/, test/, flat scraped/ and origins.csv of pictures from the
    `fake` set; returns the config's keys for them."""
    train, pool = arrays.fake("train"), arrays.fake("pool")
    truth = []
    for c in range(CLASSES):
        real, synthetic = (
            [encode(x) for x in data.images[data.labels == c]] for data in (train, pool)
        )
        begin = 0
        for folder, count in (("labelled", LABELLED), ("test", TEST)):
            for i, picture in enumerate(real[begin : begin + count]):
                write(root / folder / f"class_{c}" / f"{i}.png", picture)
            begin += count
        for origin, pictures in (("real", real[begin:]), ("sd", synthetic)):
            for i, picture in enumerate(pictures[:UNLABELLED]):
                name = f"{7 * i % 97:02d}{c}{origin[0]}.png"
                write(root / "scraped" / name, picture)
                truth.append((name, origin, f"class_{c}"))
    with open(root / "origins.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "origin", "label"), *truth])
    return {
        "data.labeled": str(root / "labelled"),
        "data.unlabeled": str(root / "scraped"),
        "data.cache_dir": str(root / "cache"),
    }


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
