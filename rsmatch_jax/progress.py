"""What a command is doing: a bar on a terminal, lines elsewhere, both on stderr.

A thread says it, so that nothing is silent while a compiler or a library works. It runs
in the commands of this package alone; in other programs Progress prints what
`Progress.advance` finds due, and `busy` nothing. Imports nothing that takes time.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import IO

QUIET = 2.0  # seconds without a line, after which one is due
RARER = 0.01  # of the time that something takes: so far apart are its lines, later
TICK = 0.2  # seconds between two moves of the bar
WIDTH = 24  # of the bar, in characters


class Progress:
    """How far a loop is, how fast, and when it ends; shown within a `with` block."""

    def __init__(
        self,
        name: str,
        unit: str,
        total: int | None,
        say: Callable[[str], None] | None = None,
        first: int = 0,
        *,
        last_line: bool = True,
        expected: float | None = None,
    ):
        """total: None = nobody knows. say: prints a line; None = on stderr. first: the
        number that an earlier process has done. last_line: whether the end is worth a
        line however soon it comes. expected: seconds, if there is no total."""
        self._last_line, self._expected = last_line, expected
        self._name, self._unit, self._total = name, unit, total
        self._say, self._detail = say or note, ""
        self._first = self._done = first
        self._start = self._moved = self._asked = time.monotonic()

    def __enter__(self) -> "Progress":
        self._start = self._moved = self._asked = time.monotonic()
        with _shown.lock:
            _shown.work.append(self)
        return self

    def __exit__(self, *_: object):
        with _shown.lock:
            _shown.work.remove(self)
            _shown.erase()

    def advance(self, n: int, detail: Callable[[], str] = lambda: ""):
        """Counts n; calls `detail` for the end of the line, only when one is due."""
        self._done += n
        self._moved = time.monotonic()
        is_last = self._last_line and self._done == self._total
        rest = self._moved - self._asked < QUIET
        if not is_last and (rest or not _shown.silent(self)):
            return
        self._detail = detail()  # may wait for the device, so it comes before the time
        self._asked = time.monotonic()
        if is_last or not _has_bar():
            self._say(self.text())

    def skip_to(self, done: int):
        """Counts up to `done`, at no time, because an earlier process did it."""
        self._first += max(0, done - self._done)
        self._done = max(done, self._done)

    def seconds(self) -> float:
        """Returns the time since the beginning."""
        return time.monotonic() - self._start

    def share(self) -> float | None:
        """Returns the part that is done, None if nobody knows."""
        if self._total is None:
            return self.seconds() / self._expected if self._expected else None
        return self._done / max(self._total, 1)

    def text(self) -> str:
        """Returns the line."""
        passed, n = self.seconds(), self._done - self._first
        if self._total is None:
            text = f"{self._name}: {duration(passed)} so far"
            left = (self._expected or 0) - passed
            return f"{text}, about {duration(left)} left" if left > 0 else text
        text = f"{self._name} {self._done}/{self._total} {self._unit}, "
        if n <= 0:
            return f"{text}{duration(passed)} so far"
        # By the time of the last one that was done, so that a slow one counts down.
        each = max(self._moved - self._start, 1e-9) / n
        since = min(time.monotonic() - self._moved, each)
        left = max(0.0, each * (self._total - self._done) - since)
        text += f"{_speed(each)}, {duration(left)} left"
        return f"{text}, {self._detail}" if self._detail else text


def busy(what: str, seconds: float | None = None) -> Progress:
    """Returns a `with` block that says what is under way and for how long. For work
    that cannot tell how far it is, such as a compiler's. seconds: it may take."""
    return Progress(what, "", None, expected=seconds)


@contextlib.contextmanager
def live(what: str, *, quiet: bool = False) -> Generator[None]:
    """Says within the block what is under way, by default `what`; quiet: does not. For
    commands."""
    if not quiet:
        begin(what)
    try:
        yield
    finally:
        end()


def begin(what: str):
    """Begins to say what is under way, until `end`; a second call changes `what`."""
    with _shown.lock:
        del _shown.work[:]
        _shown.work.append(busy(what))
        if _shown.ended is None:
            _shown.written, _shown.ended = time.monotonic(), threading.Event()
            watch = threading.Thread(target=_watch, args=[_shown.ended], daemon=True)
            watch.start()


def end():
    """Ends what `begin` began; does nothing without it."""
    with _shown.lock:
        if _shown.ended is not None:
            _shown.ended.set()
            del _shown.work[:1]
            _shown.ended = None
        _shown.erase()


def line(text: str, file: IO[str]):
    """Writes a line to stdout or stderr at once, in place of the bar. Escapes what the
    stream cannot show, such as a file's name that is no text."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    with _shown.lock:
        _shown.erase()
        file.write(text + "\n")
        file.flush()
        _shown.written = time.monotonic()


def note(text: str, file: IO[str] | None = None):
    """Writes a line as `line` does, None = to stderr; goes on in silence if nobody
    reads any more (a closed terminal, a pipe into an ended command)."""
    file = file or sys.stderr
    try:
        line(text, file)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def duration(seconds: float) -> str:
    """Returns a duration such as 7 s, 3m07s, 2h05m or 12d03h."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds} s"


def _speed(each: float) -> str:
    """Returns the speed in words. each: seconds for one."""
    if each <= 1:
        return f"{1 / each:.1f}/s"
    return f"{each:.1f} s each" if each <= 10 else f"{duration(each)} each"


class _Shown:
    """What this process shows."""

    def __init__(self):
        # Taken again by the thread that has it: a line is written when one is due.
        self.lock = threading.RLock()
        self.work: list[Progress] = []  # the last one is shown
        self.written = time.monotonic()  # the last line
        self.ended: threading.Event | None = None  # None = no thread says anything
        self._bar = False

    def silent(self, work: Progress) -> bool:
        """Whether the last line is so long ago that one about `work` is due."""
        seconds = time.monotonic() - self.written
        return seconds > max(QUIET, RARER * work.seconds())

    def draw(self, work: Progress):
        """Draws the bar at the end of the terminal's lines."""
        text, share = work.text(), work.share()
        if share is not None:
            full = int(WIDTH * min(share, 1.0))
            text = f"[{'#' * full}{'.' * (WIDTH - full)}] {text}"
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        sys.stderr.write(f"\r\x1b[K{text[: columns - 1]}")
        sys.stderr.flush()
        self._bar = True

    def erase(self):
        """Clears the line of the bar, if there is one."""
        if self._bar:
            self._bar = False
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()


_shown = _Shown()


def _watch(ended: threading.Event):
    while not ended.wait(TICK):
        with _shown.lock, contextlib.suppress(OSError, ValueError):  # a closed stderr
            if ended.is_set() or not _shown.work:
                continue
            work = _shown.work[-1]
            if _has_bar():
                _shown.draw(work)
            elif _shown.silent(work):
                note(work.text())


def _has_bar() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
