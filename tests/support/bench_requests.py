"""Wrong requests of `python -m rsmatch_jax.bench`: flags, and words of the answer."""

CASES = [
    ([], ["''", "step"]),
    (["stepp"], ["'stepp'"]),
    (["step", "--preset=tpu"], ["preset", "tpu"]),
    (["step", "--out=x.txt"], ["--out=x.txt"]),
    (["step", "--out=nope/x.json"], ["--out=nope/x.json"]),
    (["step", "--config=nope.py"], ["--config=nope.py"]),
    (["step", "--config.train.batch_siz=4"], ["batch_siz", "batch_size"]),
    (["step", "--rownds=3"], ["rownds"]),
    (["queue", "--config.method.threshold=high"], ["threshold", "high"]),
    (["records", "--folder=nope"], ["--folder=nope"]),
    (["records", "--folder=empty", "--readme=file.txt"], ["--readme=file.txt"]),
    (["records", "--foldr=nope"], ["--foldr"]),
    (["first", "--minutes=0"], ["--minutes=0"]),
    (["first", "--minutes=nan"], ["--minutes=nan"]),
    (["first", "--sweep=tabel1"], ["--sweep=tabel1", "cifake"]),
    (["first", "--resume=file.txt"], ["--resume=file.txt"]),
    (["first", "--out=x.json"], ["--out", "--resume"]),
]
