"""What eight devices send one another in a step of BERT's fine-tuning.

Run ``python benchmarks/speed/collectives_of_bert.py``. It compiles MiniLM's step for
eight host devices, without weights, and counts arrays and their megabytes in the
program of a forward pass, of Adam's step and of a step of ours: the groups' searches
and the test of the whole step hold one forward pass each.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = Path(__file__).resolve().parents[2]
for folder in ("benchmarks", "examples", "tests"):
    sys.path.insert(0, str(ROOT / folder))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from batches import Batch  # noqa: E402
from bert import BertClassifier  # noqa: E402
from collectives import collectives  # noqa: E402
from finetune_sharded import sharding_of  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from training import mean_loss, sums  # noqa: E402
from transformers import BertConfig  # noqa: E402

from optax_armijo import armijo_adam, make_train_step  # noqa: E402

ROWS, LENGTH, CLASSES = 32, 64, 3
CONFIG = BertConfig(
    hidden_size=384,
    intermediate_size=1536,
    num_attention_heads=12,
    num_hidden_layers=6,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def main() -> None:
    rows = [row for name in ("data parallel", "fully sharded") for row in count(name)]
    settings = {"rows": ROWS, "length": LENGTH, "devices": 8}
    result = {**environment(settings), "rows": rows}
    write_result(RESULTS / "collectives_of_bert.json", result)
    for row in rows:
        print(*(f"{value:>14}" for value in row.values()))


def count(name: str) -> list[dict[str, Any]]:
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    model = nnx.eval_shape(lambda: BertClassifier(CONFIG, CLASSES, nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)}

    def place(tree: Any, is_split: bool) -> Any:
        def put(leaf: Any) -> jax.ShapeDtypeStruct:
            sharding = sharding_of(mesh, leaf.shape, is_split=is_split)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(put, tree)

    def loss_fn(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
        return mean_loss(nnx.merge(graphdef, params), batch, key)

    def state_of(tx: Any) -> Any:
        def put(leaf: Any) -> Any:
            return place(leaf, name == "fully sharded" and leaf.shape in shapes)

        return jax.tree.map(put, (params, jax.eval_shape(tx.init, params)))

    ids, ones = np.zeros((ROWS, LENGTH), np.int32), np.ones(ROWS, np.float32)
    batch = place(Batch(ids, ids, ids, ids[:, 0], ones), True)
    key = jax.eval_shape(lambda: jax.random.key(0))
    adam = optax.with_extra_args_support(optax.adam(1e-5))
    programs = {
        "forward pass": collectives(sums, graphdef, state_of(adam)[0], batch),
        **{
            label: collectives(make_train_step(loss_fn, tx), *state_of(tx), batch, key)
            for label, tx in {"adam": adam, "armijo_adam": armijo_adam()}.items()
        },
    }
    return [
        {"placement": name, "program": label, **summary(found)}
        for label, found in programs.items()
    ]


def summary(found: Any) -> dict[str, Any]:
    """Arrays and megabytes by kind; numbers and vectors of a few count as scalars."""
    facts = {"gathered": 0, "gathered_mb": 0.0, "reduced": 0, "reduced_mb": 0.0}
    facts["scalars_reduced"] = 0
    for (kind, shape), times in found.items():
        size = int(np.prod(shape))
        if kind == "all-reduce" and len(shape) < 2 and size <= 8:
            facts["scalars_reduced"] += times
            continue
        column = "gathered" if kind == "all-gather" else "reduced"
        facts[column] += times
        facts[f"{column}_mb"] += times * size * 4 / 1e6
    return {name: round(value, 1) for name, value in facts.items()}


if __name__ == "__main__":
    main()
