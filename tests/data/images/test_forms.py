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


def form(paths, result, words="", flags=""):
    return paths, result, words, flags


def refused(paths, words, flags=""):
    return form(paths, None, words, flags)


# Name: the files, what comes out, words that are printed or of the refusal, with + as
# "and", and flags. What comes out is `split: class number` per split, for a pool
# `generator: class number`.
FORMS = {
    "class folders": form(CATS, "train: cat 2, dog 1"),
    "numbers in their order": form(
        "c10/1.png c9/1.png c9/10.png", "train: c9 2, c10 1"
    ),
    "a wrapping folder and a note beside it": form(
        "photos/cat/1.png photos/dog/2.png README.md",
        "train: cat 1, dog 1",
        "everything lies in the folder photos, which was entered",
    ),
    "a wrapping folder around splits": form(
        "set/train/cat/1.png set/test/cat/2.png",
        "train: cat 1 | test: cat 1",
        "folder set, which was entered",
    ),
    "train and test": form(
        "train/cat/1.png train/dog/2.png test/cat/3.png test/dog/4.png",
        "train: cat 1, dog 1 | test: cat 1, dog 1",
    ),
    "splits in capitals": form(
        "Train/cat/1.png TEST/cat/2.png Validation/cat/3.png",
        "train: cat 1 | test: cat 1 | validation: cat 1",
        ONE,
    ),
    "training, valid, testing": form(
        "training/cat/1.png valid/cat/2.png testing/cat/3.png",
        "train: cat 1 | test: cat 1 | validation: cat 1",
        ONE,
    ),
    "train, dev, eval": form(
        "train/cat/1.png dev/cat/2.png eval/cat/3.png",
        "train: cat 1 | test: cat 1 | validation: cat 1",
        ONE,
    ),
    "train and val alone": form(
        "train/cat/1.png val/cat/2.png", "train: cat 1 | validation: cat 1", ONE
    ),
    "train alone": form("train/cat/1.png train/dog/2.png", "train: cat 1, dog 1"),
    "unlabeled beside classes, a tree": form(
        f"{CATS} unlabeled/1.png unlabeled/a/b/c/2.png unlabeled/a/3.png",
        "train: cat 2, dog 1 | unlabelled: 3",
    ),
    "unlabelled beside splits": form(
        "train/cat/1.png test/cat/2.png unlabelled/x/1.png",
        "train: cat 1 | test: cat 1 | unlabelled: 1",
        ONE,
    ),
    "Unlabeled in capitals, wrapped": form(
        "set/cat/1.png set/dog/1.png set/UNLABELED/9.png",
        "train: cat 1, dog 1 | unlabelled: 1",
        "folder set, which was entered",
    ),
    "a class called train beside others": form(
        "train/1.png car/2.png bus/3.png",
        "train: bus 1, car 1, train 1",
        "taken for classes, as the folders beside them: train",
    ),
    "generators that are named": form(
        "sd/cat/1.png glide/cat/2.png glide/dog/3.png",
        "sd: cat 1 | glide: cat 1, dog 1",
        flags="--generators=sd,glide",
    ),
    "one generator that is named": form(
        "sd/cat/1.png sd/dog/2.png", "sd: cat 1, dog 1", flags="--generators=sd"
    ),
    "named generators below a wrapping folder": form(
        "fakes/sd/cat/1.png fakes/glide/cat/2.png",
        "sd: cat 1 | glide: cat 1",
        "folder fakes, which was entered",
        "--generators=sd,glide",
    ),
    "a generator that is called as a split": form(
        "dev/cat/1.png schnell/cat/2.png",
        "dev: cat 1 | schnell: cat 1",
        flags="--generators=dev,schnell",
    ),
    "a pool of one generator": form(CATS, "x: cat 2, dog 1", flags="--generator=x"),
    "a pool in its generator's folder": form(
        "sd/cat/1.png sd/dog/2.png",
        "sd: cat 1, dog 1",
        "folder sd, which was entered",
        "--generator=sd",
    ),
    "a pool from splits": form(
        "Train/cat/1.png test/cat/2.png val/cat/3.png",
        "x: cat 1",
        "test split, a pool has none: 1, validation split, a pool has none: 1",
        "--generator=x",
    ),
    "a pool beside unlabelled": form(
        f"{CATS} unlabelled/1.png",
        "x: cat 2, dog 1",
        "unlabelled, a pool has none: 1",
        "--generator=x",
    ),
    "all suffixes, in capitals too": form(
        "c/1.jfif c/2.TIF c/3.tiff c/4.ppm c/5.PGM c/6.webp c/7.gif c/8.bmp d/1.JPEG",
        "train: c 8, d 1",
    ),
    "pictures of other kinds": form(
        f"{CATS} cat/3.heic dog/4.HEIC owl/5.jxl",
        "train: cat 2, dog 1",
        "pictures that cannot be read here, convert them: 2 .heic, 1 .jxl + folders "
        "without a picture, left out: owl",
    ),
    "archives inside": form(
        f"{CATS} cat/more.zip dog.tar.gz .git/x.zip",
        "train: cat 2, dog 1",
        "archives inside, which are not opened, unpack them: cat/more.zip, dog.tar.gz",
    ),
    "a class folder of other files": form(
        f"{CATS} owl/notes.txt",
        "train: cat 2, dog 1",
        "folders without a picture, left out: owl",
    ),
    "a class folder of other files in a split": form(
        "train/cat/1.png test/cat/2.png test/owl/notes.txt",
        "train: cat 1 | test: cat 1",
        "folders without a picture, left out: test/owl",
    ),
    "an empty class folder": form(
        f"{CATS} owl/", "train: cat 2, dog 1", "empty folders: owl"
    ),
    "hidden files": form(
        f"{CATS} .DS_Store cat/._1.png __MACOSX/cat/1.png .git/x/1.png",
        "train: cat 2, dog 1",
    ),
    "classes that differ in case": form(
        "train/Cat/1.png test/cat/2.png",
        "train: Cat 1 | test: cat 1",
        "classes that differ in case alone: Cat, cat + train has no pictures of cat "
        "+ test has no pictures of Cat",
    ),
    "a class that is not tested": form(
        "train/cat/1.png train/dog/2.png test/cat/3.png",
        "train: cat 1, dog 1 | test: cat 1",
        "test has no pictures of dog",
    ),
    "class names in an order": form(
        CATS,
        "train: dog 1, cat 2",
        "train has no pictures of owl",
        "--class_names=names.txt",
    ),
    "no pictures": refused("notes.txt a/b.txt", "no images at all"),
    "a flat folder": refused(
        "1.png 2.png 3.png",
        "3 images such as 3.png in no class folder + path,label + a folder unlabelled",
    ),
    "a flat folder beside class folders": refused(
        f"{CATS} 4.png", "has 4.png and dog/"
    ),
    "unknown folders above the classes": refused(
        "sd/cat/1.png glide/cat/2.png",
        "glide, sd stand above the class folders and name no split + "
        "--generators=glide,sd + rename them to train, test, validation or unlabelled",
    ),
    "a name for a shell": refused(
        "s&d/cat/1.png glide/cat/2.png", "--generators='glide,s&d'"
    ),
    "unknown folders and --generator": refused(
        "a/cat/1.png b/cat/2.png",
        "--generators=a,b in place of --generator",
        "--generator=x",
    ),
    "an unknown folder beside splits": refused(
        "train/cat/1.png test/cat/2.png extra/cat/3.png",
        "extra stand above the class folders (beside test, train) and name no split",
    ),
    "generators, one of them not named": refused(
        "sd/cat/1.png glide/cat/2.png",
        "glide stand above + --generators=sd,glide",
        "--generators=sd",
    ),
    "a generator that is not there": refused(
        "sd/cat/1.png glide/cat/2.png",
        "there is no folder vqdm above the classes, only glide, sd",
        "--generators=sd,glide,vqdm",
    ),
    "generators beside splits": refused(
        "sd/cat/1.png train/cat/2.png",
        "the generators sd and the splits train + import them one by one",
        "--generators=sd",
    ),
    "generators without class folders": refused(
        "sd/1.png glide/2.png",
        "glide, sd hold images and no class folders",
        "--generators=sd,glide",
    ),
    "splits without class folders": refused(
        "train/1.png test/2.png",
        "test, train hold images in no class folder + test/cat/1.jpg",
    ),
    "two folders for one split": refused(
        "train/cat/1.png val/cat/2.png valid/cat/3.png",
        "val and valid stand both for the split validation",
    ),
    "one split in two cases": refused(
        "Train/cat/1.png train/cat/2.png",
        "Train and train stand both for the split train",
    ),
    "two unlabelled folders": refused(
        f"{CATS} unlabeled/1.png unlabelled/2.png",
        "unlabeled and unlabelled stand both for the split unlabelled",
    ),
    "unlabelled alone": refused(
        "unlabelled/1.png", "1 unlabelled images, none in class"
    ),
    "unlabelled as a class": refused(
        "train/cat/1.png train/unlabeled/2.png",
        "train holds the folder unlabeled, which cannot be a class",
    ),
    "folders in a class": refused("a/1.png a/b/2.png", "has a/1.png and a/b/2.png"),
    "too many levels": refused(
        "a/b/c/d/1.png", "must hold class/img + has a/b/c/d/1.png"
    ),
    "class names that repeat one": refused(
        CATS,
        "--class_names=twice.txt names cat more than once",
        "--class_names=twice.txt",
    ),
    "class names that lack one": refused(
        "cat/1.png cow/1.png",
        "--class_names: the classes cow are not in it",
        "--class_names=names.txt",
    ),
    "class names of CIFAKE": refused(
        "FAKE/1.jpg", "--class_names: CIFAKE", "--layout=cifake --class_names=names.txt"
    ),
}
MAKERS = {
    "folder": import_sources.make_folder,
    "zip": import_sources.make_zip,
    "tar": import_sources.make_tar,
    "tar.gz": import_sources.make_tar,
}


def named(text):
    """{path: content}"""
    return {path: b"" if path.endswith("/") else PNG for path in text.split()}


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """Returns plan(source, flags): what comes out, and all that is printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("dog\ncat\nowl\n")
    (tmp_path / "twice.txt").write_text("cat\ncat\ndog\n")

    def plan(source, flags=""):
        parser = Parser("import", "")
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
    ("paths", "result", "words", "flags"), FORMS.values(), ids=FORMS
)
def test_forms(tmp_path, plan, kind, paths, result, words, flags):
    source = MAKERS[kind](tmp_path / f"s.{kind}", named(paths))
    if result is None:
        with pytest.raises(RequestError) as error:
            plan(source, flags)
        lines = str(error.value)
    else:
        content, lines = plan(source, flags)
        assert content == result
        assert words or not lines.strip()
    for word in filter(None, words.split(" + ")):
        assert word in lines
