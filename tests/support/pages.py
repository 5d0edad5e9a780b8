"""The pages of the project, and the blocks of code in them."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"<!-- test: (.+) -->")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, the comment above it that says how it is tested,
    and where it stands."""

    page: pathlib.Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self):
        return f"{name(self.page)}:{self.line}"

    @property
    def shell(self) -> str:
        """The commands of a block of shell, without prompts and output."""
        if self.language == "sh":
            return self.text
        lines, goes_on = [], False
        for line in self.text.splitlines():
            if goes_on or line.startswith("$ "):
                lines.append(line.removeprefix("$ "))
                goes_on = line.endswith("\\")
        return "\n".join(lines) + "\n"


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order."""
    result, start, language, mark, lines = [], 0, "", "", []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        match = re.match(r" *```(.*)$", line)
        if start and match:
            text = "\n".join([*lines, ""])
            result.append(Block(page, start, language, mark, text))
            start, mark = 0, ""
        elif start:
            lines.append(line)
        elif match:
            start, language, lines = number, match[1], []
        elif line.strip():
            comment = MARK.fullmatch(line.strip())
            mark = comment[1] if comment else ""
    assert not start, f"{name(page)}:{start}: the block does not end"
    return result


def prose(page: pathlib.Path) -> str:
    """Returns a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.S | re.M)
