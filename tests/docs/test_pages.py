"""Pages are short, their links lead somewhere, and the keys and commands in their text
exist."""

import functools
import re

import pytest
from support import command_lines
from support.pages import PAGES, ROOT, name, prose
from test_imports import LEVELS

import rsmatch_jax
from rsmatch_jax import cli, train
from rsmatch_jax.engine import config_file
from rsmatch_jax.errors import RequestError

LINKED = [*PAGES, ROOT / "RESULTS.md"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
GROUPS = "data|input|model|method|optim|train|eval|checkpoint|log"
KEY = re.compile(rf"(?:--config\.)?((?:{GROUPS})\.[a-z_.]+\*?)(?:=(\S*))?")
LONGEST, README = 300, 180
# Files that the examples add.
ADDED = [f"rsmatch_jax/methods/{name}.py" for name in ("meanteacher", "topshare")]

by_page = pytest.mark.parametrize("page", PAGES, ids=name)


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_pages_are_short(page):
    lines = page.read_text().splitlines()
    assert len(lines) <= (README if page.name == "README.md" else LONGEST)


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"\s", "-", title) for title in plain}


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match("https?:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@by_page
def test_no_command_hides_in_an_indented_block(page):
    """Such blocks hold formulas; commands belong into fences, which are tested."""
    commands = rf"^ {{4}}(?:\$ )?(?:{'|'.join(command_lines.OURS)}|pip|make) .*$"
    assert not re.findall(commands, prose(page), re.M)


@functools.cache
def keys():
    config, _, _ = config_file.parse(["x", "--config=common"], train.define_flags)
    return config


def spans(page):
    return re.findall(r"`([^`\n]+)`", prose(page))


@by_page
def test_keys_in_the_text_exist(page):
    """And the values of those written as flags are possible."""
    for span in spans(page):
        for word in span.split():
            match = KEY.fullmatch(word)
            if not match or match[1].endswith((".py", ".npy", ".json")):
                continue
            key, value = match[1].rstrip("*").rstrip("."), match[2]
            group = keys()
            for part in key.split("."):
                assert part in group, f"{key} ({word})"
                group = group[part]
            # Values in capitals are the reader's.
            if word.startswith("--config.") and value and not value.isupper():
                argv = ["x", "--config=common", word]
                try:
                    config_file.parse(argv, train.define_flags)
                except RequestError as e:
                    raise AssertionError(f"{word}: {e}") from None


@by_page
def test_commands_in_the_text_exist(page):
    """Also the files and the make targets."""
    for span in spans(page):
        words = span.split()
        if words[0] == "rsmatch" and len(words) > 1:
            assert words[1] in (*cli.COMMANDS, "COMMAND"), span
        elif words[0] == "make" and len(words) > 1:
            command_lines.check(f"make {words[1]}")
        elif re.fullmatch(r"(?:tests|rsmatch_jax|configs)/[\w/]+\.py(::\w+)?", span):
            path, _, test = span.partition("::")
            if path in ADDED:
                continue
            assert (ROOT / path).is_file(), span
            assert f"def {test}" in (ROOT / path).read_text(), span


def test_the_api_page_has_every_public_name():
    text = (ROOT / "docs/api.md").read_text()
    for public, place in rsmatch_jax._PUBLIC.items():
        path = f"rsmatch_jax.{place.replace(':', '.')}"
        shown = re.search(rf"^::: {re.escape(path)}$", text, re.M)
        within = re.search(
            rf"^::: {re.escape(path.rpartition('.')[0])}\n.*members: .*\b{public}\b",
            text,
            re.M | re.S,
        )
        assert shown or within or f"`{public}` is" in text, public


def test_the_map_of_the_house_has_every_folder():
    picture = (ROOT / "docs/pictures/house.svg").read_text()
    missing = [
        x for names in LEVELS for x in names if not re.search(rf"\b{x}\b", picture)
    ]
    assert not missing


def test_the_map_has_the_folders_in_the_order_of_their_levels():
    picture = (ROOT / "docs/pictures/house.svg").read_text()
    rows = [x.split(", ") for x in re.findall(r'class="code">(.*?)</text>', picture)]
    level = {x: i for i, names in enumerate(LEVELS) for x in names}
    for upper, lower in zip(rows, rows[1:], strict=False):
        assert min(level[x] for x in upper) > max(level[x] for x in lower)
