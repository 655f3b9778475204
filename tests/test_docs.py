"""The Python in README and docs runs as it stands, and links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from toys import network_loss, network_params

import optax_armijo
from optax_armijo import _choices, policies

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))

PRESETS = ("adamsls", "plasls", "salsa", "kensls", "sls", "amsgrad_sls", "ponos")

pytestmark = pytest.mark.skipif(not PAGES, reason="docs are not beside the tests")


def run_blocks(page: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Runs a page's blocks one after the other, in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    return names


def test_the_snippet_in_readme_trains():
    names = run_blocks(README, {"params": network_params(), "your_loss": network_loss})
    params, state = names["params"], names["opt_state"]
    losses = []
    for step in range(15):
        params, state, loss = names["step"](params, state, jnp.asarray(step))
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), params))
    assert "loss evaluations" in str(names["armijo_info"](state))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_python_of_a_page_runs(page):
    if "flax" in page.read_text():
        pytest.importorskip("flax")
    if "jax.set_mesh" in page.read_text() and not hasattr(jax, "set_mesh"):
        pytest.skip("this JAX has no jax.set_mesh")
    run_blocks(page, {})


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            words = [re.sub(r"[^\w -]", "", h).lower() for h in headings]
            assert anchor in [heading.replace(" ", "-") for heading in words]


def test_every_policy_and_every_method_has_its_place():
    by_policy = (ROOT / "docs" / "policies.md").read_text()
    by_method = (ROOT / "docs" / "methods.md").read_text()
    for table in (
        _choices.ACCEPTANCES,
        _choices.STARTS,
        _choices.SHRINKS,
        _choices.SELECTIONS,
        _choices.FREQUENCIES,
        _choices.MERGINGS,
    ):
        for name, function in table.items():
            assert f'| `"{name}"` | `{function.__name__}(' in by_policy
            assert getattr(policies, function.__name__) is function
    for name in PRESETS:
        assert callable(getattr(optax_armijo, name))
        assert f"\n## {name}\n" in by_method
