"""Pages of the site that lie outside docs/, and links to them: a hook of mkdocs.

README.md becomes the front page and RESULTS.md the page of results, so that neither is
written twice. A link from a page to a file of the repository leads to a page with that
file, so that the same link works where the repository is read and on the site.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PLACES = {"README.md": "index.md", "RESULTS.md": "results.md"}
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
LANGUAGES = {".py": "python", ".json": "json", ".csv": "text"}


def on_files(files, config):
    """Adds the generated pages."""
    for source, place in PLACES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    for page in list(files.documentation_pages()):
        for path in _outside(page.content_string, _origin(page.src_uri)):
            if files.get_file_from_path(_place(path)) is None:
                files.append(File.generated(config, _place(path), content=_show(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links to files of the repository into links to their pages."""
    place = page.file.src_uri
    origin = _origin(place)

    def moved(match):
        path, mark, anchor = match[1].partition("#")
        target = _target(path, origin)
        if target is None:
            return match[1]
        start = posixpath.dirname(place) or "."
        return posixpath.relpath(_place(target), start) + mark + anchor

    return LINK.sub(moved, markdown)


def _origin(place):
    """Returns where the text of a page lies in the repository."""
    sources = {page: source for source, page in PLACES.items()}
    return sources.get(place, f"docs/{place}")


def _target(path, origin):
    """Returns the file of the repository that a link names, None for other links."""
    if not path or ":" in path or origin.startswith("docs/source/"):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    return target if (ROOT / target).is_file() else None


def _outside(markdown, origin):
    """Yields the files outside docs/ that a text links to, but those of PLACES."""
    for match in LINK.finditer(markdown):
        target = _target(match[1].partition("#")[0], origin)
        if target and target not in PLACES and not _is_page(target):
            yield target


def _is_page(target):
    return target.startswith("docs/") and not target.startswith("docs/results/")


def _place(target):
    """Returns where a file of the repository lies in the site."""
    if target in PLACES:
        return PLACES[target]
    return target.removeprefix("docs/") if _is_page(target) else f"source/{target}.md"


def _show(path):
    """Returns a page with the text of a file."""
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    language = LANGUAGES.get(pathlib.PurePath(path).suffix, "text")
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# {path}\n\n"
    return f"{head}{fence}{language}\n{text}\n{fence}\n"
