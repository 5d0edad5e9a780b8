"""Wrong requests about a user's pictures, and words of their answers."""

FOLDERS = ["--layout=folders", "--out=new"]

NO_PLACES = ["--config=own", "--workdir=new"]
LABELED, UNLABELED = "--config.data.labeled=", "--config.data.unlabeled="
TWO_CLASSES = [*NO_PLACES, f"{LABELED}photos/two", f"{UNLABELED}photos/many"]
SIFT = ["--out=new", "--labeled=photos/two", "--unlabeled=photos/many"]

TRAIN = [
    (NO_PLACES, ["data.labeled is not set", "--config.data.labeled=PLACE"]),
    ([*NO_PLACES, f"{LABELED}photos/two"], ["data.unlabeled is not set"]),
    (["--config=digits", "--workdir=new", f"{LABELED}photos/two"], ["--config=own"]),
    *(
        (
            [*TWO_CLASSES, f"--config.data.{key}={value}"],
            [f"data.{key}={value}: data.name=own ignores it"],
        )
        for key, value in (
            *(("synthetic_ratio", "0.5"), ("synthetic_mode", "add")),
            *(("synthetic_pool", "pool"), ("real_only", "True")),
        )
    ),
    *(
        ([*TWO_CLASSES, *more, f"--config.method.rsmatch.routing={how}"], words)
        for how, more, words in (
            ("oracle", [], ["routing=oracle", "name all in data.origins"]),
            (
                "oracle",
                ["--config.data.origins=photos/one.csv"],
                ["the origin of some unlabelled images is unknown"],
            ),
            ("random", [], ["routing=random", "share"]),
        )
    ),
    ([*TWO_CLASSES[:3], f"{UNLABELED}nope"], ["data.unlabeled", "nope: there is"]),
    ([*TWO_CLASSES[:3], f"{UNLABELED}notes"], ["data.unlabeled", "no pictures"]),
    (
        [*TWO_CLASSES[:3], f"{UNLABELED}photos/few"],
        ["photos/few has 3 readable pictures", "unlabeled_ratio = 448"],
    ),
    (
        [*TWO_CLASSES[:3], f"{UNLABELED}broken"],
        ["data.unlabeled", "no readable pictures", "c/1.png"],
    ),
    ([*TWO_CLASSES, f"{LABELED}photos/one"], ["photos/one has one class, cat"]),
    ([*TWO_CLASSES, f"{LABELED}images"], ["class cat has 1", "data.test_share"]),
    ([*TWO_CLASSES, f"{LABELED}photos/few"], ["photos/few", "no class folder"]),
    ([*TWO_CLASSES, f"{LABELED}two.txt"], ["two.txt"]),
    ([*TWO_CLASSES, f"{LABELED}photos/rows.csv"], ["9.png (line 3)", "a file"]),
    ([*TWO_CLASSES, "--config.data.test=nope"], ["data.test", "nope: there is"]),
    ([*TWO_CLASSES, "--config.data.test=photos/owl"], ["data.test", "owl"]),
    ([*TWO_CLASSES, "--config.data.test_share=0.95"], ["test_share=0.95"]),
    ([*TWO_CLASSES, "--config.data.size=4"], ["data.size=4"]),
    *(
        ([*TWO_CLASSES, f"--config.data.origins=photos/{name}.csv"], words)
        for name, words in {
            "nope": ["data.origins", "nope.csv"],
            "gone": ["gone.csv", "999.png is none of the unlabelled"],
            "owl": ["owl.csv", "owl is none of the classes cat, dog"],
            "bare": ["bare.csv", "path"],
        }.items()
    ),
]
CASES = {
    "data.import_images": [
        ([], ["--layout", "--source", "--out"]),
        (["--layout=tar", "--source=images", "--out=new"], ["--layout", "'tar'"]),
        ([*FOLDERS, "--source=nope"], ["nope: there is no such folder, zip"]),
        ([*FOLDERS, "--source=file.txt"], ["file.txt", "is no folder, zip"]),
        ([*FOLDERS, "--source=empty"], ["no images at all"]),
        ([*FOLDERS, "--source=broken"], ["c/1.png", "no complete image"]),
        ([*FOLDERS, "--source=evil.zip"], ["../c/1.png", "not to be trusted"]),
        ([*FOLDERS, "--source=images", "--out=empty"], ["--out=", "empty", "exists"]),
        ([*FOLDERS, "--source=images", "--out=file.txt"], ["file.txt", "exists"]),
        ([*FOLDERS, "--source=images", "--size=0"], ["--size=0"]),
        ([*FOLDERS, "--source=images", "--size=small"], ["--size", "small"]),
        ([*FOLDERS, "--source=images", "--generator="], ["--generator="]),
        ([*FOLDERS, "--source=images", "--generator=real"], ['"real"']),
        ([*FOLDERS, "--source=images", "--class_names=nope"], ["--class_names=nope"]),
        ([*FOLDERS, "--source=images", "--class_names=two.txt"], ["classes dog are"]),
        ([*FOLDERS, "--source=images", "--size=9", "--full_size"], ["--full_size"]),
        ([*FOLDERS, "--source=images", "--sise=8"], ["--sise=8"]),
        ([*FOLDERS, "--source=images", "--gen=x"], ["--gen=x"]),
        (["--layout=cifake", "--out=new", "--source=images"], ["images"]),
    ],
    "sift": [
        ([], ["--workdir=RUN", "--labeled=PLACE"]),
        (["--labeled=photos/two"], ["--unlabeled=PLACE"]),
        ([*SIFT, "1.png"], ["1.png", "--workdir"]),
        ([*SIFT, "--by=both"], ["--by=both needs a --workdir"]),
        ([*SIFT, "--by=magic"], ["--by", "magic"]),
        ([*SIFT, "--size=4"], ["--size=4"]),
        ([*SIFT, "--false_alarm=1.5"], ["--false_alarm=1.5", "between 0 and 1"]),
        ([*SIFT, "--out=file.txt"], ["--out=file.txt"]),
        ([*SIFT, "--link=notes"], ["--link=notes is not empty"]),
        ([*SIFT, "--copy=file.txt"], ["--copy=file.txt"]),
        ([*SIFT, "--link=a", "--copy=b"], ["--copy"]),
        ([*SIFT[:2], "--unlabeled=nope"], ["--unlabeled=", "nope: there is no such"]),
        ([*SIFT[:2], "--unlabeled=photos/few"], ["3 unlabelled", "--unlabeled"]),
        ([*SIFT, "--labeled=photos/one"], ["--labeled=", "has one class, cat"]),
        ([*SIFT, "--labeled=images"], ["2 labelled", "--labeled"]),
        ([*SIFT, "--origins=photos/gone.csv"], ["--origins", "999.png"]),
        ([*SIFT, "--step=9"], ["--step=9 needs a --workdir"]),
        ([*SIFT, "--trust_code"], ["--trust_code=True needs a --workdir"]),
        ([*SIFT, "--synthetic_pool=nope"], ["pool=nope needs a --workdir"]),
        (["--workdir=run", "--size=64"], ["--size=64", "data.size"]),
        (["--workdir=run", "1.png", "--origins=o.csv"], ["o.csv", "images named"]),
        (["--workdir=nope"], ["--workdir=nope", "no such folder"]),
        (["--workdir=notes"], ["--workdir=notes", "holds no run"]),
        (["--workdir=run"], ["run/checkpoints", "nothing is saved"]),
    ],
}
