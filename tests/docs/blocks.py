"""Find the blocks of code in the documents, and the commands in the comments of the deployment samples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
PAGES: Final = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").glob("*/README.md"), *(ROOT / "loadtest").glob("*.md")]
)
SAMPLES: Final = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())

# The language of an indented block, recognised by its beginning; the first match counts.
PROGRAMS: Final = "gateway|uv|uvx|pip|pipx|python3?|pytest|locust|curl|redis-cli|npm|npx|node|apt-get|docker|docker-compose|kubectl|helm"
PROGRAMS_OF_SYSTEMS: Final = "systemctl|sysctl|install|nginx|caddy|promtool|export|sudo|git|cd|ulimit|openssl|ssh|wget|brew|make"
BEGINNINGS: Final = {
    "shell": rf"\$ |(?:[A-Z][A-Z_]*=\S+ *)*(?:{PROGRAMS}|{PROGRAMS_OF_SYSTEMS})\b(?! *[=(:])|[A-Z][A-Z_]*=\$\(",
    "redis": r"(?:FCALL|PUBLISH|EVALSHA) ",
    "python": r"from \w[\w.]* import |import [\w.]+$|async (?:for|with|def) |def |class \w+[:(]|@",
    "javascript": r"import [{*\w].* from |const |let |await |export |function ",
    "html": r"<",
    "json": r"[{[]",
}


@dataclass(frozen=True, slots=True)
class Block:
    """Code in a document: where it begins, and in what language as far as that can be told; else ``""``."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, fenced or indented, in order."""
    found: list[tuple[int, str, list[str]]] = []
    fenced = indented = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            if not fenced:
                found.append((number + 1, line[3:].strip() or "?", []))
            fenced, indented = not fenced, False
        elif fenced or (indented and not line.strip()):
            found[-1][2].append(line)
        elif line.startswith(("    ", "\t")):
            if not indented:
                found.append((number, "", []))
            found[-1][2].append(line)
            indented = True
        else:
            indented = False
    return [_block(page, *each) for each in found]


def _block(page: Path, line: int, language: str, lines: list[str]) -> Block:
    text = "\n".join(line.removeprefix("    ") if not language else line for line in lines).strip("\n") + "\n"
    known = {"sh": "shell", "bash": "shell", "console": "shell", "js": "javascript", "py": "python"}
    guessed = next((name for name, begins in BEGINNINGS.items() if re.match(begins, text)), "")
    return Block(page, line, known.get(language, language) or guessed, text)


def commented(sample: Path) -> list[Block]:
    """The commands in a sample's comments: the indented lines."""
    lines = sample.read_text().splitlines()
    return [
        Block(sample, number, "shell", f"{line[4:]}\n")
        for number, line in enumerate(lines, 1)
        if re.match(rf"#   (?:{BEGINNINGS['shell']})", line)
    ]


def commands(block: Block) -> list[str]:
    """The commands of a block of shell; continued lines are joined."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.strip() and not line.startswith("#")]
