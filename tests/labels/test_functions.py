"""Label functions: layers found from paths alone, in any kind of tree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from toys import CallableLayer

import optax_armijo
from optax_armijo.labels.grouping import group_leaves


def groups_of(param_labels, params):
    return group_leaves(param_labels, params).labels


def leaf():
    return jnp.zeros(2)


def bert_like(num_layers: int, key: Callable[[int], Any] = str) -> dict[str, Any]:
    def layer():
        attention = {
            name: {"kernel": leaf(), "bias": leaf()}
            for name in ("query", "key", "value", "out")
        }
        return {"attention": attention, "mlp": {"kernel": leaf()}}

    return {
        "embeddings": {"word": leaf(), "position": leaf()},
        "encoder": {"layer": {key(i): layer() for i in range(num_layers)}},
        "pooler": {"kernel": leaf()},
        "classifier": {"kernel": leaf(), "bias": leaf()},
    }


LAYERS_12 = ("embeddings", *(f"layer_{i}" for i in range(12)), "output")


@pytest.mark.parametrize(
    "params",
    [
        bert_like(12),
        bert_like(12, key=int),
        {"params": bert_like(12)},
        {"embed": leaf(), "blocks": [leaf() for _ in range(12)], "head": [leaf()]},
        {"wte": leaf(), "h": {f"block_{i}": leaf() for i in range(12)}, "ln": [leaf()]},
        {"stem": leaf(), **{f"Block_{i}": [leaf()] for i in range(12)}, "z": [leaf()]},
    ],
    ids=["dict", "int keys", "linen", "list", "named blocks", "compact linen"],
)
def test_by_layer_finds_layers_in_order(params):
    assert groups_of(optax_armijo.by_layer, params) == LAYERS_12


def test_by_layer_is_the_default():
    params = bert_like(3)
    assert groups_of(None, params) == groups_of(optax_armijo.by_layer, params)


def test_by_layer_takes_outer_layers_over_numbered_parts_inside():
    params = {"layers": [{"fc1": leaf(), "fc2": leaf()} for _ in range(3)]}
    assert groups_of(optax_armijo.by_layer, params) == ("layer_0", "layer_1", "layer_2")


def test_by_layer_names_several_stacks_by_their_paths():
    stack = {"block": [leaf(), leaf()]}
    params = {"encoder": stack, "decoder": stack}
    labels = groups_of(optax_armijo.by_layer, params)
    assert labels == (
        "decoder.block_0",
        "decoder.block_1",
        "encoder.block_0",
        "encoder.block_1",
    )


def test_by_layer_keeps_weight_and_bias_of_a_number_together():
    params = {"w1": leaf(), "b1": leaf(), "w2": leaf(), "b2": leaf()}
    labels = optax_armijo.by_layer(params)
    assert labels == {
        "w1": "layer_1",
        "b1": "layer_1",
        "w2": "layer_2",
        "b2": "layer_2",
    }


def test_by_layer_without_layers_makes_a_group_of_each_part():
    parts = {"position": leaf(), "colour": leaf(), "encoder": {"w": leaf(), "b": 0.0}}
    expected = ("colour", "encoder", "position")
    for params in (parts, {"params": parts}, {"params": {"scene": parts}}):
        assert groups_of(optax_armijo.by_layer, params) == expected
    for single in (leaf(), {"w": leaf()}, {"params": {"w": leaf()}}):
        assert groups_of(optax_armijo.by_layer, single) == ("all",)


def test_by_layer_with_many_parts_and_no_layers_gives_one_group_that_says_so():
    params = {f"{letter}.weight": leaf() for letter in "abcdefghijklmnopq"}
    (label,) = groups_of(optax_armijo.by_layer, params)
    assert label == "all (no layers found)"


def test_by_layer_gives_constants_beside_a_network_labels_of_their_own():
    network = [{"w": leaf()}, {"w": leaf()}]
    params = {"network": network, "damping": 0.2, "stiffness": 60.0}
    expected = ("damping", "layer_0", "layer_1", "stiffness")
    assert groups_of(optax_armijo.by_layer, params) == expected
    assert groups_of(optax_armijo.by_layer, {"params": params}) == expected


def test_by_layer_takes_for_embeddings_what_begins_a_word_and_is_not_in_all_paths():
    layers = [{"w": leaf()}, {"w": leaf()}]
    constants = {"system_mass": leaf(), "ensemble_scale": leaf()}
    labels = optax_armijo.by_layer({"network": layers, **constants})
    assert {name: labels[name] for name in constants} == {x: x for x in constants}
    names = "wte token_embedder posembed_input PatchEmbed_0 conv_stem word_embeddings"
    before, after = names.split(), ["dispatch", "head", "norm"]
    modules = {name: {"w": leaf()} for name in (*before, *after)}
    labels = optax_armijo.by_layer({"embedder": {"layers": layers, **modules}})
    found = {name: labels["embedder"][name]["w"] for name in modules}
    assert {found[name] for name in before} == {"embeddings"}
    assert {found[name] for name in after} == {"output"}


def test_by_layer_on_nnx_state():
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embeddings = nnx.Embed(3, 2, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])
            self.head = nnx.Linear(2, 2, rngs=rngs)

    params = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    expected = ("embeddings", *(f"layer_{i}" for i in range(11)), "output")
    assert groups_of(optax_armijo.by_layer, params) == expected


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Affine:
    value: Any
    shift: Any


def test_a_field_of_the_users_that_is_called_value_is_a_part_of_the_path():
    """JAX gives it the key of an NNX variable's, which is left out."""
    label = optax_armijo.by_pattern({"values": "(^|/)value$"}, default="shifts")
    params = {"first": Affine(leaf(), leaf()), "last": Affine(leaf(), leaf())}
    expected = Affine("values", "shifts")
    assert label(params) == {"first": expected, "last": expected}
    with pytest.raises(TypeError, match="leaf 'first/value' has dtype int32"):
        group_leaves(label, params | {"first": Affine(jnp.arange(2), leaf())})


def test_the_boxes_of_flax_are_no_part_of_the_path():
    nnx = pytest.importorskip("flax.nnx")
    nn = pytest.importorskip("flax.linen")

    class Custom(nnx.Param):
        pass

    names = optax_armijo.by_pattern({name: f"^{name}$" for name in ("a", "b", "c/d")})
    state = nnx.State(
        {"a": nnx.Param(leaf()), "b": Custom(leaf()), "c": nnx.Param({"d": leaf()})}
    )
    assert jax.tree.leaves(names(state)) == ["a", "b", "c/d"]
    boxed = {"a": nn.Partitioned(leaf(), names=("x",)), "b": leaf()}
    assert jax.tree.leaves(names(boxed)) == ["a", "b"]
    inside = nnx.State({"a": nnx.Param(Affine(leaf(), leaf()))})
    values = optax_armijo.by_pattern({"values": "^a/value$"}, default="shifts")
    assert jax.tree.leaves(values(inside)) == ["values", "shifts"]


def test_by_layer_on_linen_params():
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.Dense(4)(x)
            return x

    params = Model().init(jax.random.key(0), jnp.ones((1, 4)))
    assert groups_of(optax_armijo.by_layer, params) == ("layer_0", "layer_1", "layer_2")


@pytest.mark.parametrize(
    ("num_groups", "sizes"),
    [(10, [2, 2, 1, 1, 2, 2, 1, 1]), (3, [12]), (5, [4, 4, 4]), (99, [1] * 12)],
)
def test_by_depth_splits_layers_evenly(num_groups, sizes):
    params = {"embed": leaf(), "layers": [leaf()] * 12, "head": leaf(), "z": leaf()}
    labels = optax_armijo.by_depth(num_groups)(params)
    counts = [labels["layers"].count(f"depth_{i}") for i in range(len(sizes))]
    assert sum(counts) == 12
    assert max(counts) - min(counts) <= 1
    assert sorted(counts) == sorted(sizes)
    assert labels["layers"] == sorted(labels["layers"], key=lambda x: int(x[6:]))
    assert (labels["embed"], labels["head"]) == ("embeddings", "output")


def test_a_pattern_that_says_what_is_frozen_must_match():
    frozen, params = optax_armijo.FROZEN, {"lora_a": leaf(), "lora_b": leaf()}
    label = optax_armijo.by_pattern({"adapters": "LoRA"}, default=frozen)
    with pytest.raises(
        ValueError, match=r"patterns\['adapters'\].*LoRA.*lora_a, lora_b"
    ):
        label(params)
    one_is_misspelt = {"a": "lora_a", "b": "lora_B"}
    with pytest.raises(ValueError, match=r"patterns\['b'\] must match"):
        optax_armijo.by_pattern(one_is_misspelt, default=frozen)(params)
    with pytest.raises(ValueError, match=r"patterns\['__frozen__'\] must match"):
        optax_armijo.by_pattern({frozen: "Lora"}, default="adapters")(params)
    # A pattern whose leaves the one before it has taken is no mistake.
    label = optax_armijo.by_pattern({"a": "lora", "b": "lora_b"}, default=frozen)
    assert label(params) == {"lora_a": "a", "lora_b": "a"}


def test_by_attention():
    params = bert_like(2)
    params["other"] = {
        "q_proj": leaf(),
        "k": leaf(),
        "v_kernel": leaf(),
        "keys": leaf(),
    }
    labels = optax_armijo.by_attention(params)
    attention = labels["encoder"]["layer"]["1"]["attention"]
    assert [attention[x]["kernel"] for x in ("query", "key", "value", "out")] == [
        "query",
        "key",
        "value",
        "rest",
    ]
    assert labels["other"] == {
        "q_proj": "query",
        "k": "key",
        "v_kernel": "value",
        "keys": "rest",
    }


def test_by_pattern_first_match_wins_and_default_may_freeze():
    label = optax_armijo.by_pattern(
        {"bias": "bias$", "query": "query"}, default=optax_armijo.FROZEN
    )
    labels = label(bert_like(1))["encoder"]["layer"]["0"]
    assert labels["attention"]["query"] == {"bias": "bias", "kernel": "query"}
    assert labels["mlp"]["kernel"] == optax_armijo.FROZEN


def test_labels_may_be_a_prefix_of_the_tree():
    params = bert_like(2)
    labels = {"embeddings": "a", "encoder": "b", "pooler": "b", "classifier": "c"}
    grouping = group_leaves(labels, params)
    assert grouping.labels == ("a", "b", "c")
    assert len(grouping.trainable(params)) == len(jax.tree.leaves(params))


def test_labels_that_are_a_callable_pytree_are_not_called():
    params: Any = CallableLayer(leaf(), leaf())
    labels: Any = CallableLayer("w", "b")
    assert groups_of(labels, params) == ("b", "w")
    assert groups_of(lambda params: labels, params) == ("b", "w")
    tx = optax_armijo.armijo_adam(labels)
    assert optax_armijo.armijo_info(tx.init(params)).labels == ("b", "w")


def test_groups_are_in_natural_order_whatever_the_labels_types():
    params = {"a": leaf(), "b": leaf(), "c": leaf(), "d": leaf()}
    labels = {"a": "layer_10", "b": 3, "c": "layer_9", "d": b"x"}
    assert group_leaves(labels, params).labels == (3, b"x", "layer_9", "layer_10")
