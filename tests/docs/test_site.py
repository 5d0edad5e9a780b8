"""The built site: nothing is loaded from elsewhere, and its links lead to files."""

import html.parser
import os
import pathlib
import re
import urllib.parse

import pytest

SITE = pathlib.Path(__file__).parents[2] / "build" / "site"
pytestmark = pytest.mark.skipif(
    "BUILT_SITE" not in os.environ, reason="`make docs` builds the site first"
)
# Attributes that load something while a page is shown.
LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "srcset",
    "video": "src",
    "use": "href",
}
LOADING_LINKS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "preconnect",
    "modulepreload",
}


class Page(html.parser.HTMLParser):
    """Collects what a page loads, what it links to, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.anchors, self.styles = [], [], set(), ""
        self._in_style = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "id" in values:
            self.anchors.add(values["id"])
        if tag in LOADING and values.get(LOADING[tag]):
            self.loaded.append(values[LOADING[tag]])
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").split()):
            self.loaded.append(values["href"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        self.styles += values.get("style") or ""
        self._in_style = tag == "style"

    def has(self, anchor):
        return urllib.parse.unquote(anchor) in self.anchors

    def handle_endtag(self, tag):
        self._in_style = False

    def handle_data(self, data):
        if self._in_style:
            self.styles += data


@pytest.fixture(scope="module")
def pages():
    result = {path: Page(path) for path in sorted(SITE.rglob("*.html"))}
    assert len(result) > 40
    return result


def remote(urls):
    return [url for url in urls if re.match(r"(?:https?:)?//", url)]


def of_styles(text):
    """Returns what a style sheet loads."""
    urls = re.findall(r"url\(\s*['\"]?([^'\")]+)", text)
    return urls + re.findall(r"@import\s+['\"]([^'\"]+)", text)


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        assert page.loaded, path
        assert not remote(page.loaded + of_styles(page.styles)), path
        # For these the theme's script would fetch another one.
        assert 'class="mermaid"' not in path.read_text(encoding="utf-8"), path
    sheets = list(SITE.rglob("*.css"))
    assert sheets
    for path in sheets + list(SITE.rglob("*.svg")):
        assert not remote(of_styles(path.read_text(encoding="utf-8"))), path
    for path in SITE.rglob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|image|use|foreignObject)\b", text), path


def test_what_is_loaded_and_linked_is_there(pages):
    missing = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for url in {*page.loaded, *page.links}:
            if re.match(r"[a-z]+:", url) or url.startswith("//"):
                continue
            file, _, anchor = url.partition("#")
            file = urllib.parse.unquote(file.split("?")[0])
            target = (path.parent / file).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            there = target.is_file()
            if anchor and target in pages:
                there = pages[target].has(anchor)
            if not there:
                missing.append(f"{path.relative_to(SITE)}: {url}")
    assert not missing, "\n".join(missing)


def test_no_comment_about_tests_shows(pages):
    for path, page in pages.items():
        del page
        if "source" not in path.relative_to(SITE).parts:
            text = path.read_text(encoding="utf-8")
            visible = re.sub(r"<!--.*?-->|<code>.*?</code>", "", text, flags=re.S)
            assert "test: " not in visible, path


def test_a_page_that_loads_would_be_noticed(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        "<link rel='stylesheet' href='https://fonts.example/x.css'>"
        "<script src='//cdn.example/x.js'></script><img src='a.png'>"
        "<style>@import 'https://a.example/b.css'; p {background: url(http://c/d)}</style>"
    )
    page = Page(path)
    assert len(remote(page.loaded)) == 2
    assert len(remote(of_styles(page.styles))) == 2
