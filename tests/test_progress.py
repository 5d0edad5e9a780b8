"""No command is silent: every line of each is stamped, with slow compilations and
evaluations. And how a stop is answered meanwhile."""

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import processes
from support.processes import ROOT

from rsmatch_jax import progress, terminal
from rsmatch_jax.engine import pace
from rsmatch_jax.engine.pace import Pace

MOST = 5.0  # seconds between two lines
SLOW = {"SLOW_IMPORT": "2.5", "SLOW_COMPILE": "6", "SLOW_BATCH": "1.7"}
STEP = {**SLOW, "SLOW_COMPILE": "0,6,6"}  # not the first state, but what follows
NOISE = re.compile(r"oneDNN|absl::|cuda|^[IWE]\d{4} |\d{4} .*\.cc:\d+|Warning", re.M)


def start(*argv, **slow):
    """Starts a command whose stdout and stderr are one pipe."""
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/support/slowed"), str(ROOT)]),
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        **slow,
    }
    return subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=processes.with_default_signals,
    )


def stamped(*argv, slow):
    """Returns exit code, output, and the longest silence of a slowed command, from its
    start to its last line, with the text before it."""
    process, parts, gaps = start(*argv, **slow), [""], []
    last = time.monotonic()
    while part := os.read(process.stdout.fileno(), 2**16).decode():
        now = time.monotonic()
        gaps.append((now - last, parts[-1]))
        parts.append(part)
        last = now
    return process.wait(), "".join(parts), max(gaps)


def until(process, text):
    """Reads the output of a process up to some text."""
    read = ""
    while text not in read:
        part = os.read(process.stdout.fileno(), 2**16).decode()
        assert part, read
        read += part
    return read


KEYS = ("train.num_steps=4", "eval.every_steps=2", "log.tensorboard=False")
DIGITS = ["launch.py", "--config=digits", *(f"--config.{key}" for key in KEYS)]
RUN = "--workdir={run}"
COMMANDS = {  # on a run of DIGITS in {run}
    "plan": [*DIGITS, "--plan", "--workdir={out}/plan"],
    "evaluate": ["-m", "rsmatch_jax.evaluate", RUN],
    "predict": ["-m", "rsmatch_jax.predict", RUN, "{run}/queue.png"],
    "export": ["-m", "rsmatch_jax.export", RUN, "--out={out}/model"],
    "tsne": ["-m", "rsmatch_jax.analysis.tsne", RUN, "--images=60"],
    "see": ["-m", "rsmatch_jax", "see", RUN, "--images=4"],
    "sift": ["-m", "rsmatch_jax.sift", RUN, "--out={out}/sift", "--by=detector"],
    "report": ["-m", "rsmatch_jax.report", "{run}", "--out={out}/page.html"],
    "sweep": ["-m", "rsmatch_jax.sweep", "digits", "--dry_run", "--out={out}/sweep"],
}
ALL = {"train": [*DIGITS, "--overwrite", RUN], **COMMANDS}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """{command: (exit code, output, (longest silence, text before it))}, on a run."""
    out = tmp_path_factory.mktemp("shown")
    places = {"run": out / "run", "out": out}

    def one(name):
        argv = [word.format(**places) for word in ALL[name]]
        slow = STEP if name in ("train", "plan") else SLOW
        first = stamped(*argv, slow=slow)
        # A machine that is busy with something else is no fault of the command.
        return first if first[2][0] < MOST else stamped(*argv, slow=slow)

    outputs = {"train": one("train")}
    with ThreadPoolExecutor(2) as pool:
        return outputs | dict(zip(COMMANDS, pool.map(one, COMMANDS), strict=True))


@pytest.mark.parametrize("name", ALL)
def test_no_command_is_silent(shown, name):
    code, text, (seconds, before) = shown[name]
    assert code == 0, text
    assert seconds < MOST, f"silent for {seconds:.1f} s after {before!r}"
    assert not NOISE.search(text), text
    assert "imported tensorflow" not in text


def test_lines_say_what_is_under_way_and_for_how_long(shown):
    train, evaluate = shown["train"][1], shown["evaluate"][1]
    assert re.search(r"^loading the libraries: \d+ s so far$", evaluate, re.M)
    for text in (train, shown["plan"][1]):
        assert re.search(r"^compiling the step: \d+ s so far", text, re.M)
    for text in (train, evaluate):
        assert re.search(r"^evaluating \d+/1797 images, \S+/s, \d+ s left$", text, re.M)
    assert "on 1 cpu device; 2 evaluations" in train


# A stop


@pytest.mark.parametrize(
    ("at", "slow", "words"),
    [
        ("loading the libraries", {"SLOW_IMPORT": "60"}, "nothing new to save"),
        ("compiling the step: ", {"SLOW_COMPILE": "0,60,60"}, "nothing new to save"),
        ("evaluating", {"SLOW_BATCH": "3"}, "stopping after this batch of the eval"),
    ],
)
def test_a_stop_is_answered_in_every_phase(tmp_path, at, slow, words):
    process = start(*DIGITS, f"--workdir={tmp_path}/run", **slow)
    text, begin = until(process, at), time.monotonic()
    process.send_signal(signal.SIGTERM)
    text += process.communicate()[0].decode()
    assert (process.returncode, words in text) == (75, True), text
    assert time.monotonic() - begin < 30, text


def test_a_stop_says_how_long_it_takes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    mine = Pace()
    assert mine.until_stopped(1) == "this step; how long that takes is not known yet"
    assert mine.ahead(4) == 0
    mine.begin()
    now[0] = 40.0
    mine.done(2)  # 20 s each
    assert mine.ahead(4) == 1
    with mine.saving():
        assert "this save; how long that takes is not" in mine.until_stopped(0)
        now[0] = 47.0
    assert mine.until_stopped(3) == "this step, in about 1m07s"
    with mine.saving():
        assert mine.until_stopped(0) == "this save, in about 7 s"
    with mine.evaluating():
        for _ in range(6):  # three of them done, when the sixth begins
            mine.batch()
            now[0] += 5.0
        # The last measured: 25 s for three; three more and a save of no time.
        assert mine.until_stopped(0) == "this batch of the evaluation, in about 25 s"
    mine.begin()
    now[0] += 0.5
    mine.done(1)
    assert mine.ahead(4) == 4 and mine.until_stopped(2) == "this step, in about 1 s"


def test_ctrl_c_ends_a_command_although_a_compiler_works():
    program = """
    import ctypes, sys
    from rsmatch_jax import terminal
    terminal.PATIENCE = 0.3

    def work(args):
        terminal.say("ready")
        ctypes.CDLL(None).sleep(60)  # without Python's lock, as XLA compiles

    parser = terminal.Parser("evaluate", None)
    sys.exit(terminal.run_command(parser, [], work, "start again"))
    """
    process = processes.program(textwrap.dedent(program))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "\ninterrupted; start again\n")


# The bar and the lines


def test_a_terminal_shows_a_bar_and_clears_it():
    program = """
    import time
    from rsmatch_jax import progress, terminal
    with progress.live("work"):
        time.sleep(0.5)
        with progress.Progress("drawing", "pictures", 4, last_line=False) as drawing:
            drawing.advance(1)
            time.sleep(0.5)
            terminal.say("a line")
            time.sleep(0.5)
    terminal.say("end")
    """
    here, there = pty.openpty()
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=there, stderr=there)
    os.close(there)
    text = ""
    with contextlib.suppress(OSError):  # Linux's end of a terminal
        while part := os.read(here, 2**16).decode():
            text += part
    assert process.wait() == 0
    bar, work = "[######..................] drawing 1/4 pictures, ", "work: 0 s so far"
    assert f"\r\x1b[K{work}" in text and f"\r\x1b[K{bar}" in text
    last = [line.rsplit("\x1b[K", 1)[-1] for line in text.split("\r\n")]
    assert last == ["a line", "end", ""]  # what stays


def test_lines_are_due_in_silence_alone(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress._shown, "written", 0.0)
    with progress.Progress("reading", "files", 100, lines.append, first=20) as reading:
        for _ in range(4):
            now[0] += 0.8
            reading.advance(10, lambda: "few")
        assert lines == ["reading 50/100 files, 12.5/s, 4 s left, few"]
        now[0] += 1000.0  # so long that lines come more rarely
        progress._shown.written = now[0] - 9
        reading.advance(10)
        progress._shown.written = now[0] - 11
        reading.advance(0)
        assert lines[1:] == ["reading 70/100 files, 20 s each, 10m02s left"]
        reading.skip_to(99)
        reading.advance(1)
    assert len(lines) == 3 and lines[-1].startswith("reading 100/100 files, ")


@pytest.mark.parametrize(
    ("seconds", "speed"), [(4, "2.5/s"), (13, "1.3 s each"), (700, "1m10s each")]
)
def test_speed_in_a_unit_that_reads(seconds, speed, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = progress.Progress("reading", "files", 10, last_line=False)
    now[0] = seconds
    work.advance(10)
    assert work.text() == f"reading 10/10 files, {speed}, 0 s left"


def test_time_left_falls_while_one_is_under_way(monkeypatch):
    """By ten seconds for each of four; the third one takes longer than that."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = progress.Progress("timing", "dispatches", 4)
    for now[0] in (10.0, 20.0):
        work.advance(1)
    for now[0], left in ((20.0, 20), (24.0, 16), (30.0, 10), (55.0, 10)):
        text = f"timing 2/4 dispatches, 10.0 s each, {left} s left"
        assert work.text() == text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_a_terminal_cannot_show_is_escaped(encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    progress.line(os.fsdecode(b"caf\xe9, \xc3\xbc"), file)
    expected = {"utf-8": "caf\\udce9, ü\n", "ascii": "caf\\udce9, \\xfc\n"}
    assert file.buffer.getvalue() == expected[encoding].encode()


@pytest.mark.parametrize("gone", ["stdout", "stderr"])
def test_work_goes_on_when_nobody_reads_its_lines(gone):
    program = """
    from rsmatch_jax import progress, terminal
    progress.QUIET = 0.0
    with progress.live("work"), progress.Progress("drawing", "pictures", 3) as drawing:
        for _ in range(3):
            drawing.advance(1)
            terminal.say("a line")
    """
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, gone: write_end}
    done = subprocess.run(argv, cwd=ROOT, text=True, **streams)
    os.close(write_end)
    assert done.returncode == 0, done.stderr
    if gone == "stderr":
        assert done.stdout == 3 * "a line\n"
    else:
        assert "drawing 3/3 pictures" in done.stderr


def test_numbers_read_well():
    durations = [0.4, 59.4, 60, 187, 7_500, 50_779_000]
    texts = ["0 s", "59 s", "1m00s", "3m07s", "2h05m", "587d17h"]
    assert [progress.duration(seconds) for seconds in durations] == texts
    words = [(1, "step"), (2, "step"), (1, "dispatch"), (3, "dispatch"), (0, "run")]
    texts = ["1 step", "2 steps", "1 dispatch", "3 dispatches", "0 runs"]
    assert [terminal.counted(*pair) for pair in words] == texts
