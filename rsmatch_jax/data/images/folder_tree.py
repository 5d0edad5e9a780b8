"""Lists the files below a folder, through symbolic links, each real file once."""

import collections
import errno
import os
import stat
from collections.abc import Sequence

from rsmatch_jax import files
from rsmatch_jax.data.stores.dataset_folder import natural_key

_SHOWN = 10

Link = tuple[str, str]  # path below the folder, real path of the folder it stands in


def some(texts: Sequence[str]) -> str:
    """Returns the first ten texts, and the number of the others."""
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


class Tree:
    """The plain files below a folder.

    A link to a file or folder outside is followed; a file that is reached twice has
    the path without a link, or else the first in natural order.

    Attributes:
        files: {real path: path below the folder, with forward slashes}.
        lines: what was not followed or read, by name.
    """

    def __init__(self, folder: str):
        """Walks the folder. Raises OSError if it cannot be listed."""
        self.files: dict[str, str] = {}
        self._links: list[Link] = []
        self._named: dict[str, list[str]] = collections.defaultdict(list)
        self._root = os.path.realpath(folder)
        self._folders, self._queue = {self._root}, collections.deque([("", self._root)])
        os.scandir(self._root).close()
        # All that is reached without a link comes first.
        while self._queue or self._links:
            while self._queue:
                self._list(*self._queue.popleft())
            links, self._links = sorted(self._links, key=_by_path), []
            for path, parent in links:
                self._follow(path, parent)

    @property
    def lines(self) -> list[str]:
        """One line for each kind of thing that was left out."""
        return [f"{what}: {some(paths)}" for what, paths in self._named.items()]

    def _list(self, below: str, real: str):
        try:
            with os.scandir(real) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as e:
            self._named["folders that cannot be read"].append(f"{below} ({e.strerror})")
            return
        if not entries:
            self._named["empty folders"].append(below or ".")
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            target = os.path.join(real, entry.name)
            if entry.is_symlink():
                self._links.append((path, real))
            elif entry.is_dir(follow_symlinks=False):
                self._add_folder(path, target)
            else:
                is_plain = entry.is_file(follow_symlinks=False)
                self._add_file(path, target, is_plain)

    def _follow(self, path: str, parent: str):
        link = os.path.join(parent, os.path.basename(path))
        target = os.path.realpath(link)
        try:
            mode = os.stat(link).st_mode
        except OSError as e:
            loop = "links that lead to themselves"
            kind = loop if e.errno == errno.ELOOP else "links that lead nowhere"
            self._named[kind].append(path)
            return
        if not stat.S_ISDIR(mode):
            self._add_file(path, target, stat.S_ISREG(mode))
        elif any(files.contains(target, folder) for folder in (parent, self._root)):
            self._named["links to a folder around them, not followed"].append(path)
        else:
            self._add_folder(path, target)

    def _add_folder(self, path: str, target: str):
        if target in self._folders:
            self._named["folders that are read elsewhere already"].append(path)
            return
        self._folders.add(target)
        self._queue.append((path, target))

    def _add_file(self, path: str, target: str, is_plain: bool):
        if not is_plain:
            self._named["neither files nor folders, left out"].append(path)
        elif target in self.files:
            twice = f"{path} (as {self.files[target]})"
            self._named["links to files that are read already"].append(twice)
        else:
            self.files[target] = path


def _by_path(link: Link) -> tuple[list[str | int], str]:
    return natural_key(link[0])
