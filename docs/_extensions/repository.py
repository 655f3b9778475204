"""What pages take from the rest of the repository while the site is built.

A link followed by a comment, ``[CONTRIBUTING.md](../CONTRIBUTING.md)<!-- include -->``,
is a link on GitHub; on the site the file's text takes its place, or, with
``<!-- table -->``, a table of a record of measurements. So no page holds a copy that
could go stale. Links to a file that a page includes lead to that page.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
COMMENTED = re.compile(r"\[[^]]*\]\(([^)]+)\)<!-- (include|table) -->")
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
        if match[2] == "table":
            return TABLES[path.name](json.loads(path.read_text()))
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
        if match[2] == "include"
    } | {DOCS.parent / "README.md": DOCS / "index.md"}


def step_time(record: dict[str, Any]) -> str:
    """What a step costs, beside AdamW's."""
    versions = record["versions"]
    rows = [
        {
            "method": x["method"],
            "mean step": f"{x['mean_ratio']:.2f}",
            "median step": f"{x['median_ratio']:.2f}",
            "evaluations a step": f"{x['evaluations']:.2f}",
            "compilation": f"{x['compile_seconds']:.0f} s",
        }
        for x in record["rows"]
    ]
    return (
        f"{markdown(rows)}\n\n{record['timed_steps']} timed steps on "
        f"`{record['device']}`, Python {versions['python']}, JAX {versions['jax']}, "
        f"optax {versions['optax']}, commit {record['commit']}."
    )


TABLES = {"step_time.json": step_time}


def markdown(rows: list[dict[str, str]]) -> str:
    """Returns rows with the same columns as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(x.values()) + " |" for x in rows)])
