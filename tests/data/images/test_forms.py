"""Forms of a user's folders and archives, and what each comes out as, by name."""

from collections import Counter

import pytest
from support import import_sources
from support.pictures import encode, noise

from rsmatch_jax.data import import_images
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser

PNG = encode(noise(8, 8, 3))
ONE = "there is one class alone, cat"
CATS = "cat/1.png cat/2.jpg dog/3.png"

# Name: (files, flags, what comes out, words that are printed). What comes out is
# `split: class number` per split, for a pool `generator: class number`.
PLANS = {
    "class folders": (CATS, "", "train: cat 2, dog 1", ""),
    "numbers in their order": (
        "c10/1.png c9/1.png c9/10.png",
        "",
        "train: c9 2, c10 1",
        "",
    ),
    "one wrapping folder": (
        "photos/cat/1.png photos/dog/2.png",
        "",
        "train: cat 1, dog 1",
        "everything lies in the folder photos, which was entered",
    ),
    "a wrapping folder and a note beside it": (
        "photos/cat/1.png photos/dog/2.png README.md",
        "",
        "train: cat 1, dog 1",
        "folder photos, which was entered",
    ),
    "a wrapping folder around splits": (
        "set/train/cat/1.png set/test/cat/2.png",
        "",
        "train: cat 1 | test: cat 1",
        "folder set, which was entered",
    ),
    "train and test": (
        "train/cat/1.png train/dog/2.png test/cat/3.png test/dog/4.png",
        "",
        "train: cat 1, dog 1 | test: cat 1, dog 1",
        "",
    ),
    "splits in capitals": (
        "Train/cat/1.png TEST/cat/2.png",
        "",
        "train: cat 1 | test: cat 1",
        ONE,
    ),
    "training, valid, testing": (
        "training/cat/1.png valid/cat/2.png testing/cat/3.png",
        "",
        "train: cat 1 | test: cat 1 | validation: cat 1",
        ONE,
    ),
    "train, dev, eval": (
        "train/cat/1.png dev/cat/2.png eval/cat/3.png",
        "",
        "train: cat 1 | test: cat 1 | validation: cat 1",
        ONE,
    ),
    "train and val alone": (
        "train/cat/1.png val/cat/2.png",
        "",
        "train: cat 1 | validation: cat 1",
        ONE,
    ),
    "validation by its whole name": (
        "train/cat/1.png Validation/cat/2.png",
        "",
        "train: cat 1 | validation: cat 1",
        ONE,
    ),
    "train alone": ("train/cat/1.png train/dog/2.png", "", "train: cat 1, dog 1", ""),
    "unlabeled beside classes, a tree": (
        f"{CATS} unlabeled/1.png unlabeled/a/b/c/2.png unlabeled/a/3.png",
        "",
        "train: cat 2, dog 1 | unlabelled: 3",
        "",
    ),
    "unlabelled beside splits": (
        "train/cat/1.png test/cat/2.png unlabelled/x/1.png",
        "",
        "train: cat 1 | test: cat 1 | unlabelled: 1",
        ONE,
    ),
    "Unlabeled in capitals, wrapped": (
        "set/cat/1.png set/dog/1.png set/UNLABELED/9.png",
        "",
        "train: cat 1, dog 1 | unlabelled: 1",
        "folder set, which was entered",
    ),
    "a class called train beside others": (
        "train/1.png car/2.png bus/3.png",
        "",
        "train: bus 1, car 1, train 1",
        "taken for classes, as the folders beside them: train",
    ),
    "generators that are named": (
        "sd/cat/1.png glide/cat/2.png glide/dog/3.png",
        "--generators=sd,glide",
        "sd: cat 1 | glide: cat 1, dog 1",
        "",
    ),
    "one generator that is named": (
        "sd/cat/1.png sd/dog/2.png",
        "--generators=sd",
        "sd: cat 1, dog 1",
        "",
    ),
    "named generators below a wrapping folder": (
        "fakes/sd/cat/1.png fakes/glide/cat/2.png",
        "--generators=sd,glide",
        "sd: cat 1 | glide: cat 1",
        "folder fakes, which was entered",
    ),
    "a generator that is called as a split": (
        "dev/cat/1.png schnell/cat/2.png",
        "--generators=dev,schnell",
        "dev: cat 1 | schnell: cat 1",
        "",
    ),
    "a pool of one generator": (CATS, "--generator=x", "x: cat 2, dog 1", ""),
    "a pool in its generator's folder": (
        "sd/cat/1.png sd/dog/2.png",
        "--generator=sd",
        "sd: cat 1, dog 1",
        "folder sd, which was entered",
    ),
    "a pool from splits": (
        "Train/cat/1.png test/cat/2.png val/cat/3.png",
        "--generator=x",
        "x: cat 1",
        "test split, a pool has none: 1, validation split, a pool has none: 1",
    ),
    "a pool beside unlabelled": (
        f"{CATS} unlabelled/1.png",
        "--generator=x",
        "x: cat 2, dog 1",
        "unlabelled, a pool has none: 1",
    ),
    "all suffixes, in capitals too": (
        "c/1.jfif c/2.TIF c/3.tiff c/4.ppm c/5.PGM c/6.webp c/7.gif c/8.bmp d/1.JPEG",
        "",
        "train: c 8, d 1",
        "",
    ),
    "pictures of other kinds": (
        f"{CATS} cat/3.heic dog/4.HEIC owl/5.jxl",
        "",
        "train: cat 2, dog 1",
        "pictures that cannot be read here, convert them: 2 .heic, 1 .jxl + "
        "folders without a picture, left out: owl",
    ),
    "a class folder of other files": (
        f"{CATS} owl/notes.txt",
        "",
        "train: cat 2, dog 1",
        "folders without a picture, left out: owl",
    ),
    "a class folder of other files in a split": (
        "train/cat/1.png test/cat/2.png test/owl/notes.txt",
        "",
        "train: cat 1 | test: cat 1",
        "folders without a picture, left out: test/owl",
    ),
    "an empty class folder": (
        f"{CATS} owl/",
        "",
        "train: cat 2, dog 1",
        "empty folders: owl",
    ),
    "hidden files": (
        f"{CATS} .DS_Store cat/._1.png __MACOSX/cat/1.png .git/x/1.png",
        "",
        "train: cat 2, dog 1",
        "",
    ),
    "classes that differ in case": (
        "train/Cat/1.png test/cat/2.png",
        "",
        "train: Cat 1 | test: cat 1",
        "classes that differ in case alone: Cat, cat + train has no pictures of cat + "
        "test has no pictures of Cat",
    ),
    "one class": ("cat/1.png", "", "train: cat 1", ONE),
    "a class that is not tested": (
        "train/cat/1.png train/dog/2.png test/cat/3.png",
        "",
        "train: cat 1, dog 1 | test: cat 1",
        "test has no pictures of dog",
    ),
    "class names in an order": (
        CATS,
        "--class_names=names.txt",
        "train: dog 1, cat 2",
        "train has no pictures of owl",
    ),
}

# Name: (files, flags, words of the refusal).
REFUSED = {
    "no pictures": ("notes.txt a/b.txt", "", "no images at all"),
    "a flat folder": (
        "1.png 2.png 3.png",
        "",
        "3 images such as 3.png in no class folder + path,label + a folder unlabelled",
    ),
    "a flat folder beside class folders": (f"{CATS} 4.png", "", "has 4.png and dog/"),
    "unknown folders above the classes": (
        "sd/cat/1.png glide/cat/2.png",
        "",
        "glide, sd stand above the class folders and name no split + "
        "--generators=glide,sd + rename them to train, test, validation or unlabelled",
    ),
    "a name for a shell": (
        "my sd/cat/1.png glide/cat/2.png",
        "",
        "--generators='glide,my sd'",
    ),
    "unknown folders and --generator": (
        "a/cat/1.png b/cat/2.png",
        "--generator=x",
        "--generators=a,b in place of --generator",
    ),
    "an unknown folder beside splits": (
        "train/cat/1.png test/cat/2.png extra/cat/3.png",
        "",
        "extra stand above the class folders (beside test, train) and name no split",
    ),
    "generators, one of them not named": (
        "sd/cat/1.png glide/cat/2.png",
        "--generators=sd",
        "glide stand above + --generators=sd,glide",
    ),
    "a generator that is not there": (
        "sd/cat/1.png glide/cat/2.png",
        "--generators=sd,glide,vqdm",
        "there is no folder vqdm above the classes, only glide, sd",
    ),
    "generators beside splits": (
        "sd/cat/1.png train/cat/2.png",
        "--generators=sd",
        "the generators sd and the splits train + import them one by one",
    ),
    "generators without class folders": (
        "sd/1.png glide/2.png",
        "--generators=sd,glide",
        "glide, sd hold images and no class folders",
    ),
    "splits without class folders": (
        "train/1.png test/2.png",
        "",
        "test, train hold images in no class folder + test/cat/1.jpg",
    ),
    "two folders for one split": (
        "train/cat/1.png val/cat/2.png valid/cat/3.png",
        "",
        "val and valid stand both for the split validation",
    ),
    "one split in two cases": (
        "Train/cat/1.png train/cat/2.png",
        "",
        "Train and train stand both for the split train",
    ),
    "two unlabelled folders": (
        f"{CATS} unlabeled/1.png unlabelled/2.png",
        "",
        "unlabeled and unlabelled stand both for the split unlabelled",
    ),
    "unlabelled alone": ("unlabelled/1.png", "", "1 unlabelled images, none in class"),
    "unlabelled as a class": (
        "train/cat/1.png train/unlabeled/2.png",
        "",
        "train holds the folder unlabeled, which cannot be a class",
    ),
    "folders in a class": ("a/1.png a/b/2.png", "", "has a/1.png and a/b/2.png"),
    "too many levels": ("a/b/c/d/1.png", "", "must hold class/img + has a/b/c/d/1.png"),
    "class names that lack one": (
        "cat/1.png cow/1.png",
        "--class_names=names.txt",
        "--class_names: the classes cow are not in it",
    ),
}
MAKERS = {
    "folder": import_sources.make_folder,
    "zip": import_sources.make_zip,
    "tar": import_sources.make_tar,
    "tar.gz": import_sources.make_tar,
}


def named(text):
    """{path: content} of paths between which is one space, `my sd` excepted."""
    paths = text.replace("my sd", "my-sd").split()
    return {
        path.replace("my-sd", "my sd"): b"" if path.endswith("/") else PNG
        for path in paths
    }


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """Returns plan(source, flags): what comes out, and all that is printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("dog\ncat\nowl\n")

    def plan(source, flags=""):
        parser = Parser("data.import_images", "")
        import_images.add_flags(parser)
        argv = ["--layout=folders", "--out=out", f"--source={source}", *flags.split()]
        args = parser.parse_args(argv)
        with import_images.planned(import_images.checked(args)) as (content, _):
            lines = [capsys.readouterr().out, *content.notes]
            lines += [", ".join(f"{k}: {n}" for k, n in content.ignored.items())]
            return described(content), "\n".join(lines)

    return plan


def described(plan):
    counts = Counter()
    for item in plan.items:
        pool = plan.generators and list(plan.generators)[item.generator]
        name = "" if item.label == -1 else plan.class_names[item.label]
        counts[pool or item.split, item.label, name] += 1
    order = list(plan.generators) or ["train", "test", "validation", "unlabelled"]
    parts = []
    for part in order:
        numbers = sorted((k, n) for (p, *k), n in counts.items() if p == part)
        if numbers:
            texts = (f"{name} {number}".strip() for (_, name), number in numbers)
            parts.append(f"{part}: {', '.join(texts)}")
    return " | ".join(parts)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    ("paths", "flags", "result", "words"), PLANS.values(), ids=PLANS
)
def test_what_comes_out(tmp_path, plan, kind, paths, flags, result, words):
    source = MAKERS[kind](tmp_path / f"s.{kind}", named(paths))
    content, lines = plan(source, flags)
    assert content == result
    for word in filter(None, words.split(" + ")):
        assert word in lines
    if not words:
        assert lines.strip() == ""


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("paths", "flags", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path, plan, kind, paths, flags, words):
    source = MAKERS[kind](tmp_path / f"s.{kind}", named(paths))
    with pytest.raises(RequestError) as error:
        plan(source, flags)
    for word in words.split(" + "):
        assert word in str(error.value)


def test_folders_of_links(tmp_path, plan):
    """Those of sift --link, and some that people add."""
    names = ("real/cat/1.png", "real/dog/2.png", "synthetic/cat/3.png")
    names += ("unsure/dog/4.png",)
    photos, folder = tmp_path / "photos", tmp_path / "sift"
    import_sources.make_folder(photos, {f"{i}.png": PNG for i in range(1, 5)})
    import_sources.sift_links(folder, photos, names)
    assert plan(folder / "real") == ("train: cat 1, dog 1", "\n")
    with pytest.raises(RequestError, match="--generators=real,synthetic,unsure"):
        plan(folder)
    content, _ = plan(folder / "synthetic", "--generator=unknown")
    assert content == "unknown: cat 1"
    (folder / "real" / "cat" / "gone.png").symlink_to("nowhere.png")
    (folder / "real" / "dog" / "up").symlink_to("..")
    (folder / "real" / "dog" / "again.png").symlink_to("2.png")
    content, lines = plan(folder / "real")
    assert content == "train: cat 1, dog 1"
    assert "links that lead nowhere: cat/gone.png" in lines
    assert "links to a folder around them, not followed: dog/up" in lines
    assert "read already: dog/again.png (as dog/2.png)" in lines
