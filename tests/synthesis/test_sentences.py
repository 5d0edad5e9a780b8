"""Tests the prompts command with a tiny T5 that the test trains."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from rsmatch_jax.synthesis.prompts import __main__ as prompts
from rsmatch_jax.synthesis.prompts import prompt_file, sentences
from rsmatch_jax.synthesis.prompts.sentences import Sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")

torch.set_num_threads(1)  # the nets are too small for more

ROOT = pathlib.Path(__file__).parent.parent.parent
CLASSES = ("cat", "dog", "maple_tree")
PLACES = ("on a rock", "in a park", "near us", "by the sea", "here", "at home")
SAYINGS = {
    "cat": ("A white cat sleeps", "Two cats play", "The old cat sits", "An owl sits"),
    "dog": ("A brown dog runs", "The dogs bark", "A dog lies", "A wolf runs"),
    "maple tree": ("A maple tree grows", "Maple trees stand", "An oak grows"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Returns the folder of a T5 that has learnt sentences of three classes, some of
    them without the class's word."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    pairs = [
        (word, f"{saying} {place}.")
        for word, sayings in SAYINGS.items()
        for saying in sayings
        for place in PLACES
    ]
    tokenizer = make_tokenizer(folder, [text for pair in pairs for text in pair])
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    net = transformers.T5ForConditionalGeneration(config)
    inputs, texts = map(list, zip(*pairs, strict=True))
    batch = tokenizer(inputs, text_target=texts, return_tensors="pt", padding=True)
    batch["labels"][batch["labels"] == 0] = -100  # padding
    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(120):
        loss = net(**batch).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 1.0, loss
    net.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Tiny\n")
    return str(folder)


def make_tokenizer(folder, texts):
    """Returns a tokenizer of T5's class, made from a SentencePiece file alone."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "spiece"),
        vocab_size=80,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "t5"}')
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pets" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "pets", "version": "1.0.0"}')
    (folder / "label.labels.txt").write_text("".join(f"{n}\n" for n in CLASSES))
    return str(folder)


@pytest.fixture
def flags(model, dataset):
    return (f"--dataset={dataset}", f"--model={model}", "--per_class=10")


def test_the_file_holds_what_the_flags_request(flags, model, dataset, tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    assert prompts.main([*flags, f"--out={out}", "--batch_size=8"]) == 0
    printed = capsys.readouterr().out
    assert "sentences/s" in printed or "30/30 sentences" in printed
    assert "0 s left" in printed

    content = prompt_file.read(str(out))
    assert [prompt.label for prompt in content.prompts] == [0, 1, 2] * 10
    patterns = (r"\bcats?\b", r"\bdogs?\b", r"\bmaple trees?\b")
    for label, pattern in enumerate(patterns):
        texts = [p.text for p in content.prompts if p.label == label]
        assert len({text.lower() for text in texts}) == 10
        for text in texts:
            assert re.search(pattern, text, re.IGNORECASE), text
            assert text == text.strip()
    assert content.class_names == CLASSES
    header = content.header
    expected = {
        "dataset": dataset,
        "words": ["cat", "dog", "maple tree"],
        "model": model,
        "model_licence": "cc0-1.0",
        "seed": 0,
        "top_k": 50,
    }
    assert {key: header[key] for key in expected} == expected
    assert header["made_with"]["torch"] == torch.__version__
    assert header["made_with"]["transformers"] == transformers.__version__
    rejected = header["rejected"]
    assert set(rejected) == {"unfinished", "word missing", "repeated"}
    for name, number, *lost in zip(
        CLASSES, header["sampled"], *rejected.values(), strict=True
    ):
        assert number == 10 + sum(lost)
        assert f"{name}: 10 of {number} kept" in printed
    # A quarter of the learnt sentences lack the word, and few sentences differ.
    assert sum(rejected["word missing"]) > 0
    assert sum(rejected["repeated"]) > 0
    assert "word missing" in printed
    assert os.listdir(tmp_path) == ["p.jsonl"]

    again = tmp_path / "again.jsonl"
    for per_class in (3, 10):  # and made longer
        more = f"--out={again}", "--batch_size=8", f"--per_class={per_class}"
        assert prompts.main([*flags, *more]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_killed_process_goes_on_and_ends_with_the_same_bytes(flags, tmp_path):
    # All sentences are accepted, so that there is time to kill the process.
    flags = (*flags, "--per_class=60", "--batch_size=2", "--allow_missing_word")
    flags = (*flags, "--temperature=2")
    complete, parts = tmp_path / "complete.jsonl", tmp_path / "parts.jsonl"
    stage = tmp_path / "parts.jsonl.partial"
    process = subprocess.Popen(
        [sys.executable, "-m", prompts.__name__, *flags, f"--out={parts}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        while not stage.exists() or len(stage.read_bytes().splitlines()) < 6:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert stage.exists() and not parts.exists()
    assert prompts.main([*flags, f"--out={complete}"]) == 0
    assert prompts.main([*flags, f"--out={parts}"]) == 0
    assert parts.read_bytes() == complete.read_bytes()


def test_a_class_whose_sentences_fail_is_named(flags, tmp_path, capsys):
    out, words = tmp_path / "p.jsonl", tmp_path / "words.txt"
    words.write_text("zebra\ndog\nzeppelin\n")
    flags = (*flags, f"--out={out}", f"--words={words}", "--batch_size=4")
    assert prompts.main([*flags, "--max_tries=3"]) == 1
    printed = capsys.readouterr().err
    # Some sentence may also be unfinished: what a training yields depends on the CPU.
    for name in (r"cat \('zebra'\)", r"maple_tree \('zeppelin'\)"):
        assert re.search(rf"{name}: 0 of 12 kept;.* word missing \d", printed), printed
    assert "dog (" not in printed
    for way in ("--words", "--model", "--temperature", "--allow_missing_word"):
        assert way in printed
    assert "Traceback" not in printed
    # A limit of two tokens cuts every sentence.
    short = (f"--out={tmp_path}/q.jsonl", "--max_tokens=2", "--max_tries=1")
    assert prompts.main([*flags, *short]) == 1
    assert "unfinished 100.0 %" in capsys.readouterr().err
    # More tries continue from there.
    assert prompts.main([*flags, "--max_tries=5"]) == 1
    assert "0 of 20 kept" in capsys.readouterr().err
    stage = (tmp_path / "p.jsonl.partial").read_text()
    assert stage.count('{"label": 0') == 5
    # Without this check the same words pass.
    flags = [f for f in flags if not f.startswith("--out")]
    out = tmp_path / "any.jsonl"
    assert prompts.main([*flags, f"--out={out}", "--allow_missing_word"]) == 0
    header = prompt_file.read(str(out)).header
    assert header["rejected"]["word missing"] == [0, 0, 0]
    assert header["words"] == ["zebra", "dog", "zeppelin"]


def writer(model, **settings):
    return sentences.load(model, Sampling(batch_size=5, **settings))[0]


def test_a_batch_depends_on_its_key_alone(model):
    first = writer(model)("cat", (0, 0))
    assert len(first) == 5
    write, other_seed = writer(model), writer(model, seed=1)
    others = [write("cat", (0, 1)), write("cat", (1, 0)), write("dog", (0, 0))]
    assert first not in [*others, other_seed("cat", (0, 0))]
    assert write("cat", (0, 0)) == first


def test_sampling_settings_reach_the_model(model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    net = transformers.AutoModelForSeq2SeqLM.from_pretrained(model).eval()
    greedy = {"do_sample": False, "max_new_tokens": 32}
    tokens = net.generate(**tokenizer("dog", return_tensors="pt"), **greedy)[0]
    likeliest = tokenizer.decode(tokens, skip_special_tokens=True)
    for setting in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert writer(model, **setting)("dog", (0, 0)) == [(likeliest, True)] * 5
    wild = writer(model, top_k=0, temperature=50.0)
    assert len(set(wild("dog", (0, 0)))) == 5


def test_a_model_that_cannot_be_loaded(flags, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text('{"model_type": "t5", "vocab_')
    for name in (str(tmp_path / "nowhere"), str(damaged)):
        flags = (*flags, f"--out={tmp_path}/p.jsonl", f"--model={name}")
        assert prompts.main(flags) == 2
        printed = capsys.readouterr().err
        assert f"--model={name} cannot be loaded" in printed
        assert "Traceback" not in printed
        assert os.listdir(tmp_path) == ["damaged"]


def test_an_old_model_of_pickled_weights_and_no_card(model, tmp_path):
    # The default model's page may have this form.
    old = tmp_path / "model"
    shutil.copytree(
        model, old, ignore=shutil.ignore_patterns("README.md", "*.safetensors")
    )
    net = transformers.AutoModelForSeq2SeqLM.from_pretrained(model)
    torch.save(net.state_dict(), old / "pytorch_model.bin")
    write, header = sentences.load(str(old), Sampling(batch_size=5))
    assert header["model_licence"] == "see the model's page"
    assert write("cat", (0, 0)) == writer(model)("cat", (0, 0))
