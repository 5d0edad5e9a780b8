"""A user's pictures: labelled in class folders, unlabelled of unknown origin."""

from support.import_sources import make_folder
from support.pictures import encode

from rsmatch_jax.data.stores import arrays

CLASSES = 3
LABELLED, UNLABELLED, TEST = 8, 20, 8  # of each class; unlabelled ones of each origin


def make(root):
    """Writes labelled/, test/, flat scraped/ and origins.csv of pictures from the
    `fake` set; returns the config's keys for them."""
    train, pool = arrays.fake("train"), arrays.fake("pool")
    truth, files = [], {}
    for c in range(CLASSES):
        real, synthetic = (
            [encode(x) for x in data.images[data.labels == c]] for data in (train, pool)
        )
        begin = 0
        for folder, count in (("labelled", LABELLED), ("test", TEST)):
            for i, picture in enumerate(real[begin : begin + count]):
                files[f"{folder}/class_{c}/{i}.png"] = picture
            begin += count
        for origin, pictures in (("real", real[begin:]), ("sd", synthetic)):
            for i, picture in enumerate(pictures[:UNLABELLED]):
                name = f"{7 * i % 97:02d}{c}{origin[0]}.png"
                files[f"scraped/{name}"] = picture
                truth.append((name, origin, f"class_{c}"))
    rows = [("path", "origin", "label"), *truth]
    files["origins.csv"] = "\n".join(map(",".join, rows)).encode()
    make_folder(root, files)
    return {
        "data.labeled": str(root / "labelled"),
        "data.unlabeled": str(root / "scraped"),
        "data.cache_dir": str(root / "cache"),
    }
