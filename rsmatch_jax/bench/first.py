"""All that a short time with a GPU should yield, the most important first.

    python -m rsmatch_jax.bench first [--minutes=9] [--resume=runs/first]
        [--sweep=cifake] [--config.group.key=value ...]

Checks that the device computes what the CPU does; measures the figures G1 to G10, a
profile and PyTorch; counts the compiled steps; and trains runs of a sweep in the rest
of the time. After each part the folder of --resume gets its result: in first.json,
which `bench records` reads, and on the page first.md, which says what to do next. The
same command goes on there. The folder stays within 60 MB: finished runs of the sweep
keep no checkpoint and others their newest, unless these are too large.
Exit codes: 0 all is measured, or cannot be here; 1 a part failed; 2 the request was
wrong; 75 parts are left.
"""

import importlib.util
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rsmatch_jax import files, terminal
from rsmatch_jax.bench import first_page, first_runs, other_device, suite
from rsmatch_jax.bench.first_page import FAILED, LEFT, MEASURED, NOT_HERE
from rsmatch_jax.bench.first_runs import SWEEP
from rsmatch_jax.bench.harness import command_line, frame, machine
from rsmatch_jax.engine import checks, config_file, experiment
from rsmatch_jax.errors import STOPPED, RequestError, RunFailed, Unfinished, one_line
from rsmatch_jax.report import grid
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import child

GO_ON = "the same command continues where it stopped"
CONTENT, PAGE = "first.json", "first.md"
FLAGS: command_line.Extra = {"minutes": 9.0, "resume": None, "sweep": None}
LIMIT = 60e6  # bytes of the folder
CLOSING = 10.0  # seconds for the start of this process and the last files
SAVING = 20.0  # seconds before, in which a run of the sweep saves itself
PATIENCE = 8.0  # seconds of those, after which it is ended
TARGETS = ("h200", "h100", "a100")  # that are in the name of a GPU


class Part(NamedTuple):
    """Seconds that a part may take, on a CPU twice as many, and that it needs to begin.
    leaves_out: whether its bench leaves out what --seconds has no time for."""

    most: float
    least: float
    leaves_out: bool = False


PARTS = {  # by bench, in order of importance
    "correct": Part(150, 30, leaves_out=True),
    "loop": Part(220, 40, leaves_out=True),
    "roofline": Part(80, 20),
    "queue": Part(40, 15),
    "profile": Part(100, 30),
    "peer": Part(150, 40),
    other_device.NAME: Part(150, 60),
    SWEEP: Part(float("inf"), 60 + SAVING),
}


def main(argv: Sequence[str]):
    """Does what is left until the minutes are over. Raises Unfinished if parts are left
    then, RunFailed if one has failed."""
    begin = time.monotonic()
    values = command_line.check(argv, FLAGS)
    end = begin + terminal.seconds(values.minutes) - CLOSING
    if values.out is not None:
        raise RequestError("--out: --resume names the folder; leave it out")
    folder, sweep = values.resume or "runs/first", values.sweep or "cifake"
    if sweep not in grid.load():
        raise RequestError(f"--sweep={sweep}: choose one of {', '.join(grid.load())}")
    workdir.check_writable(folder, "--resume")
    os.makedirs(folder, exist_ok=True)
    busy = f"--resume={folder}: another process measures there"
    with files.locked(os.path.join(folder, workdir.LOCK_FILE), busy):
        keys = config_file.override_keys(["bench", *argv])
        overrides = {key: checks.get(values.config, key) for key in keys}
        words = command_line.without(argv, *FLAGS)
        with tempfile.TemporaryDirectory() as cache:
            session = Session(folder, words, sweep, overrides, cache)
            try:
                session.run(end)
            finally:  # also after Ctrl-C
                session.write()
    frame.show_figures(session.content["figures"], first_page.limits())
    terminal.say(f"written: {session.path(CONTENT)}, {session.path(PAGE)}")
    for kind, error in ((LEFT, Unfinished), (FAILED, RunFailed)):
        if parts := first_page.parts(session.content, kind):
            raise error(f"{kind}: {', '.join(parts)}; see {session.path(PAGE)}")


class Session:
    """One call of the command. content: that of first.json; rows: its parts by name."""

    def __init__(
        self,
        folder: str,
        words: Sequence[str],
        sweep: str,
        overrides: Mapping[str, Any],
        cache: str,
    ):
        """cache: of programs, which parts have in common. Raises RequestError for a
        folder that this command has not begun, or not with these flags."""
        self.folder, self.words, self.begin = folder, words, time.monotonic()
        self.sweep, self.overrides = sweep, overrides
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", cache)
        self.environment = {"JAX_COMPILATION_CACHE_DIR": cache}
        flags = shlex.join(["first", f"--sweep={sweep}", *words])
        here: dict[str, Any] = {"command": f"python -m rsmatch_jax.bench {flags}"}
        here |= machine.in_child()
        earlier = files.read_json(self.path(CONTENT))
        if earlier is None and set(os.listdir(folder)) - {workdir.LOCK_FILE}:
            reason = f"is not empty and has no {CONTENT}; name another folder"
            raise RequestError(f"--resume={folder} {reason}")
        self.content = earlier or here
        for old, new in zip(_key(self.content), _key(here), strict=True):
            if old != new:
                text = f"was begun with {old}, and this is {new}; name another folder"
                raise RequestError(f"--resume={folder} {text}")
        if (size := first_runs.trim(folder, LIMIT)) > LIMIT:
            raise RequestError(
                f"--resume={folder} holds {size / 1e6:.0f} MB, more than "
                f"{LIMIT / 1e6:.0f}; move away what this command has not written"
            )
        self.minutes = self.content.get("minutes", 0.0)
        self.rows = {row["row"]: row for row in self.content.get("rows", ())}
        for name in PARTS:
            new_row = {"row": name, "seconds": 0.0, "outcome": f"{LEFT}: not begun"}
            row = self.rows.setdefault(name, new_row)
            if os.path.exists(self.path(f"{name}.json")):  # killed right after it
                row["outcome"] = MEASURED

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def run(self, end: float):
        """Does the parts that are left, then those that failed, and the sweep last."""

        def order(name):
            return name == SWEEP, self.rows[name]["outcome"].startswith(FAILED)

        for name in sorted(PARTS, key=order):
            row, begin = self.rows[name], time.monotonic()
            if row["outcome"] == MEASURED:
                continue
            self.write()
            row["outcome"] = self._outcome(name, PARTS[name], end)
            row["seconds"] += time.monotonic() - begin
            terminal.say(f"{name}: {row['outcome']} ({row['seconds']:.0f} s)")

    def _outcome(self, name: str, part: Part, end: float) -> str:
        """Runs a part in a child process, whose output goes into a file."""
        if time.monotonic() + part.least > end:
            return f"{LEFT}: it needs {part.least:g} s"
        if reason := self._missing(name):
            return f"{NOT_HERE}: {reason}"
        begin, log = time.monotonic(), f"{name}.log"
        most = part.most * (2 if self.content["device"]["platform"] == "cpu" else 1)
        seconds = min(most, end - begin)
        command, options = self._command(name, part, seconds)
        with open(self.path(log), "w") as f:
            code = child.run(command, stdout=f, stderr=f, seconds=seconds, **options)
        late = time.monotonic() >= begin + seconds
        if code == 0:
            return MEASURED
        if code == STOPPED or (late and seconds < most):
            return f"{LEFT}: its time was up"
        if late:
            return f"{FAILED}: it took more than {seconds:g} s; see {log}"
        with open(self.path(log), errors="replace") as f:
            lines = [x.strip() for x in f if x.strip() and "see above" not in x]
        errors = [x for x in lines if re.match(r"(error|[\w.]+(Error|Exception)): ", x)]
        reason = one_line(RunFailed((errors or lines or [f"exit code {code}"])[-1]))
        missing = code == 2 or "ModuleNotFoundError" in reason  # data, or a package
        return f"{NOT_HERE if missing else FAILED}: {reason}; see {log}"

    def _command(
        self, name: str, part: Part, seconds: float
    ) -> tuple[list[str], dict[str, Any]]:
        """The command of a part, and options of `child.run`."""
        if name == SWEEP:
            flags = {"minutes": (seconds - SAVING) / 60, "out": self.path(name)}
            keys = {"checkpoint.keep": 1, "log.tensorboard": False, **self.overrides}
            flags |= {f"config.{key}": value for key, value in keys.items()}
            words = [f"--{key}={value}" for key, value in flags.items()]
            command = [sys.executable, "-m", "rsmatch_jax.sweep", self.sweep, *words]
            return command, {"patience": PATIENCE, "environment": self.environment}
        words = [*self.words, f"--out={self.path(name)}.json"]
        words += [f"--seconds={seconds / 2}"] if part.leaves_out else []
        environment, platforms = self.environment, os.environ.get("JAX_PLATFORMS", "")
        if name == other_device.NAME:
            kind = self.content["device"]["kind"].lower()
            target = next((t for t in TARGETS if t in kind), kind)
            words += [f"--target={target}", "--method=fixmatch,rsmatch"]
            environment = {**environment, "JAX_PLATFORMS": "cpu"}
        elif platforms and "cpu" not in platforms:  # `correct` compares with it
            environment = {**environment, "JAX_PLATFORMS": f"{platforms},cpu"}
        command = [sys.executable, "-m", "rsmatch_jax.bench", name, *words]
        return command, {"environment": environment}

    def _missing(self, name: str) -> str | None:
        """What this machine lacks for a part."""
        if name == "peer" and importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed; pip install torch"
        if name == SWEEP:
            cell = grid.load()[self.sweep].cells[-1]  # with synthetic images
            keys = {**self.overrides, "data.download": False}
            try:
                experiment.load_task(cell.config_dict(keys))
            except (RequestError, ImportError, OSError) as e:
                return one_line(e)
        return None

    def write(self):
        """Writes all that is there so far."""
        first_runs.trim(self.folder, LIMIT)
        documents = {n: files.read_json(self.path(f"{n}.json")) for n in PARTS}
        parts = {name: document for name, document in documents.items() if document}
        figures = suite.combined(parts)
        for document in parts.values():
            figures |= document.get("figures", {})
        self.content |= {
            "bench": "first",
            "folder": self.folder,
            "minutes": self.minutes + (time.monotonic() - self.begin) / 60,
            "figures": {k: figures[k] for k in sorted(figures, key=suite.order)},
            "rows": list(self.rows.values()),
            "parts": parts,
            "runs": first_runs.results(self.folder),
        }
        files.write_json(self.path(CONTENT), self.content)
        files.write_text(self.path(PAGE), first_page.page(self.content))


def _key(content: Mapping[str, Any]) -> tuple[str, ...]:
    """What all calls in a folder have in common."""
    versions, kind = content["versions"], content["device"]["kind"]
    return kind, f"jax {versions['jax']}", content["command"]
