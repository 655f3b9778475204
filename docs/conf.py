"""How Sphinx builds the site: ``python -m sphinx -W docs build/site``."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

import optax_armijo

sys.path.insert(0, str(Path(__file__).resolve().parent / "_extensions"))

project = "optax_armijo"
author = "The optax_armijo authors"
copyright = author
version = release = optax_armijo.__version__

# Kept out of index.md, which GitHub shows as well.
NAVIGATION = {
    "Begin": ["examples"],
    "How to": ["training", "many_devices", "directions"],
    "Look up": ["methods", "policies", "compatibility", "results", "speed"],
    "API": [
        "api/optimizers",
        "api/training",
        "api/labels",
        "api/methods",
        "api/policies",
    ],
    "Project": ["contributing", "changelog"],
}

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "mathml",  # _extensions/mathml.py
    "repository",  # _extensions/repository.py
]
exclude_patterns = ["_extensions", "figures", "img"]
nitpicky = True

# Docstrings: `name` links where there is something to link to.
default_role = "py:obj"
nitpick_ignore_regex = [("py:.*", r"(?!optax_armijo\.[a-z]).*")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
add_module_names = False
napoleon_use_ivar = True
napoleon_use_rtype = False
suppress_warnings = ["ref.obj"]

# Pages: GitHub's Markdown, with anchors for headings as GitHub has them.
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"optax_armijo {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Puts the table of contents under the front page."""
    del app
    if name == "index":
        for caption, pages in NAVIGATION.items():
            options = f":hidden:\n:caption: {caption}\n\n"
            source[0] += f"\n```{{toctree}}\n{options}{chr(10).join(pages)}\n```\n"
