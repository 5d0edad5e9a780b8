"""The journal of an unfinished prompt file, so that a killed run can continue.

<out>.partial has JSON lines: the request first, then one line per batch of sentences. A
batch depends only on its class and its number within the class. The number of judged
sentences of a class therefore tells where to continue. A finished prompt file has these
numbers too, so that a longer file continues from it.
"""

import contextlib
import json
import os
from collections.abc import Generator, Mapping, Sequence
from typing import IO, Any

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.prompts.tally import Tally


class Journal:
    """An open journal. header: its first line, or None if it is empty."""

    def __init__(self, path: str, file: IO[bytes]):
        self.path = path
        content = file.read()
        self._size = content.rfind(b"\n") + 1  # a killed run may leave half a line
        lines = content[: self._size].splitlines()
        parsed = [self._parse(i, line) for i, line in enumerate(lines, start=1)]
        self.header: dict[str, Any] | None = parsed[0] if parsed else None
        self._batches = parsed[1:]

    def append(self, content: Mapping[str, Any]):
        """Writes a line: the header, or a batch with its label."""
        line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        os.truncate(self.path, self._size)  # only now: a refused journal stays as it is
        files.append(self.path, line)
        self._size += len(line)
        if self.header is None:
            self.header = dict(content)

    def replay(self, tallies: Sequence[Tally]):
        """Adds the batches that the tallies do not hold yet."""
        for number, batch in enumerate(self._batches, start=2):
            try:
                if batch["label"] not in range(len(tallies)):
                    raise ValueError("no such class")
                tally = tallies[batch["label"]]
                # A run that was killed at its end has left both file and journal.
                if batch["first"] + batch["sampled"] > tally.sampled:
                    tally.add(batch)
            except (KeyError, TypeError, ValueError) as e:
                raise self._damaged(number) from e

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                return content
        raise self._damaged(number)

    def _damaged(self, number: int) -> RequestError:
        return RequestError(
            f"{self.path}, line {number}, is damaged, or the prompt file that it "
            "continues is gone; delete it and start again"
        )


@contextlib.contextmanager
def opened(path: str) -> Generator[Journal]:
    """Opens or creates the journal and locks it against other processes."""
    try:
        file = open(path, "a+b")  # noqa: SIM115
    except OSError as e:
        raise RequestError(f"--out: {path} cannot be written: {e}") from None
    with file:
        # A file without a link is the journal of a run that has just ended.
        if not files.try_lock(file) or not os.fstat(file.fileno()).st_nlink:
            raise RequestError(
                f"another run is writing {path}; wait for it, or name another --out"
            )
        file.seek(0)
        journal = Journal(path, file)
        try:
            yield journal
        finally:
            if journal.header is None:  # nothing was written
                os.remove(path)
