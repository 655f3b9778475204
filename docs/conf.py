"""How Sphinx builds the site: ``python -m sphinx -W docs build/site``."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import optax_armijo

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "optax_armijo"
author = "The optax_armijo authors"
copyright = author
version = release = optax_armijo.__version__

# Kept out of index.md, which GitHub shows as well.
NAVIGATION = {
    "Begin": """
quickstart
Tutorial: a real BERT <tutorial>
how_it_works
notebooks/fine_tuning
notebooks/parts
examples
""",
    "How to": """
training
guides/nnx
guides/linen
guides/hugging_face
guides/averaging
guides/saving
guides/logging
guides/chain
guides/accumulation
many_devices
guides/precision
guides/parts
guides/frozen
guides/scanned
""",
    "When in doubt": """
FAQ <faq>
Troubleshooting <troubleshooting>
With optax's wrappers <compatibility>
""",
    "Look up": """
armijo_adam in full <armijo_adam>
Published line searches <methods>
What was measured <results>
speed
glossary
Development log <development_log>
""",
    "API": """
api/optimizers
api/training
api/labels
api/methods
""",
    "Project": """
contributing
changelog
""",
}

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",  # Markdown and notebooks
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
napoleon_attr_annotations = False
napoleon_use_rtype = False
suppress_warnings = ["ref.obj"]

# Pages: GitHub's Markdown, with anchors for headings as GitHub has them.
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = {"math"}
# Notebooks are shown as they were executed; a test runs their code.
nb_execution_mode = "off"

html_theme = "furo"
html_title = f"optax_armijo {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
pygments_dark_style = "github-dark"
# Fonts that each system has; the first of them has letters with bars, as in s̄.
html_theme_options = {
    f"{scheme}_css_variables": {
        "font-stack--monospace": "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', "
        "'Liberation Mono', monospace",
    }
    for scheme in ("light", "dark")
}
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", show_shapes, priority=0)


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Puts the table of contents under the front page."""
    del app
    if name == "index":
        for caption, pages in NAVIGATION.items():
            options = f":hidden:\n:caption: {caption}\n"
            source[0] += f"\n```{{toctree}}\n{options}{pages}```\n"


def show_shapes(*arguments: Any) -> None:
    """Shows the shapes that stand behind attributes, as in ``# f[G]``."""
    lines: list[str] = arguments[-1]
    lines[:] = [re.sub(r"(^\s+| )\s*# (\w+\[.*\])$", r"\1``\2``", x) for x in lines]
