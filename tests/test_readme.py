"""README's snippet runs as it stands."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from toys import network_loss, network_params

README = Path(__file__).parents[1] / "README.md"


def test_the_snippet_trains():
    if not README.exists():
        pytest.skip("README.md is not beside the tests")
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {"params": network_params(), "your_loss": network_loss}
    exec(compile(snippet, "README.md", "exec"), names)
    params, state = names["params"], names["opt_state"]
    losses = []
    for step in range(15):
        params, state, loss = names["step"](params, state, jnp.asarray(step))
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), params))
    assert "loss evaluations" in str(names["armijo_info"](state))
