"""The commands that documents tell their readers to type: on lines of their own, indented, in text or in comments."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PATTERNS = ("*.md", "conf/*.md", "examples/**/*.md", "conf/*.y*ml", "Dockerfile")
_COMMAND = re.compile(r"^(?:#  +| {4,})(%s .+(?:(?<=\\)\n.+)*)", re.MULTILINE)


def commands(program: str) -> list[str]:
    """Return every command line of a program that a document has, once, without the remark behind it."""
    pattern = re.compile(_COMMAND.pattern % program, re.MULTILINE)
    texts = (path.read_text() for name in _PATTERNS for path in sorted(ROOT.glob(name)))
    return list(dict.fromkeys(_line(found) for text in texts for found in pattern.findall(text)))


def _line(found: str) -> str:
    """Return the command in one line: continued lines joined, marks of comments and remarks left out."""
    joined = re.sub(r"\s*\\\n#?\s*", " ", found)
    return re.sub(r"\s{2,}# .*", "", joined).strip()
