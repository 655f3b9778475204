"""What pages take from the rest of the repository while the site is built.

A link followed by a comment, ``[CONTRIBUTING.md](../CONTRIBUTING.md)<!-- include -->``,
is a link on GitHub; on the site the file's text takes its place. So no page holds a
copy that could go stale. Links to a file that a page includes lead to that page.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
COMMENTED = re.compile(r"\[[^]]*\]\(([^)]+)\)<!-- include -->")
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def complete(app: Sphinx, name: str, source: list[str]) -> None:
    """Fills a page in, and leads its links to where they lead on the site."""
    folder = (DOCS / name).parent

    def fill(match: re.Match[str]) -> str:
        path = (folder / match[1]).resolve()
        app.env.note_dependency(str(path), docname=name)
        text = path.read_text().replace(" ± ", "\u00a0±\u00a0")  # one word in a table
        if source[0][: match.start()].strip():
            text = below_a_title(text)
        return redirect(text, path.parent, folder)

    # The text between what is filled in has links of its own.
    parts, end = [], 0
    for match in COMMENTED.finditer(source[0]):
        parts += [redirect(source[0][end : match.start()], folder, folder), fill(match)]
        end = match.end()
    source[0] = "".join([*parts, redirect(source[0][end:], folder, folder)])


def redirect(text: str, written_in: Path, shown_in: Path) -> str:
    """Rewrites relative links, written in one folder, for a page in another."""
    pages = pages_of_files()

    def lead(match: re.Match[str]) -> str:
        path = (written_in / match[1]).resolve()
        return Path(os.path.relpath(pages.get(path, path), shown_in)).as_posix()

    return LINK.sub(lead, text)


def below_a_title(text: str) -> str:
    """Moves all headings one level down, but no comment in a block of code."""
    parts = text.split("```")
    parts[::2] = [re.sub(r"^#", "##", part, flags=re.MULTILINE) for part in parts[::2]]
    return "```".join(parts)


def pages_of_files() -> dict[Path, Path]:
    """Returns which page shows which file outside of the docs."""
    return {
        (page.parent / match[1]).resolve(): page
        for page in DOCS.rglob("*.md")
        for match in COMMENTED.finditer(page.read_text())
    } | {DOCS.parent / "README.md": DOCS / "index.md"}
