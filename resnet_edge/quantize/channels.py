"""Which channels of a float graph are tied to each other, and who writes and reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from resnet_edge.graph.nodes import GraphIndex, attribute
from resnet_edge.graph.onnx_model import infer_shapes

__all__ = ["ChannelMap", "Layer", "map_channels"]

_Shapes = dict[str, tuple[int | None, ...]]

# Commute with a positive factor per channel and keep the channels.
_KEEP = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity")


@dataclass(frozen=True)
class Layer:
    """A convolution or fully connected layer, seen from its input or from its output.

    Attributes:
        ids: Channel ids of the tensor it reads, or writes.
        weight: Name of its weight, output channels first.
        bias: Name of its bias, empty without one.
        groups: Number of convolution groups.
    """

    ids: NDArray[Any]
    weight: str
    bias: str
    groups: int


class ChannelMap:
    """Union-find over all channels of all activation tensors.

    Attributes:
        ids: Channel ids of every tensor whose channels are known.
        writers: Layers by what they write.
        readers: Layers by what they read.
        free: Per id (meaningful at roots): whether the group may be scaled.
    """

    def __init__(self) -> None:
        self.ids: dict[str, NDArray[Any]] = {}
        self.writers: list[Layer] = []
        self.readers: list[Layer] = []
        self._parent: NDArray[Any] = np.zeros(0, dtype=np.int64)
        self.free: NDArray[Any] = np.zeros(0, dtype=bool)
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self._parent)

    def fresh(self, count: int, *, free: bool) -> NDArray[Any]:
        """Return new ids."""
        ids = np.arange(self.size, self.size + count)
        self._parent = np.concatenate([self._parent, ids])
        self.free = np.concatenate([self.free, np.full(count, free)])
        return ids

    def root(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Return the representative of each id's group."""
        roots = self._parent[ids]
        while not np.array_equal(roots, self._parent[roots]):
            roots = self._parent[roots]
        self._parent[ids] = roots
        return np.asarray(roots)

    def tie(self, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Put channels pairwise into the same group."""
        for a, b in zip(one, other, strict=True):
            first, second = self.root(a[None])[0], self.root(b[None])[0]
            free = self.free[first] and self.free[second]
            self._parent[second] = first
            self.free[first] = free

    def freeze(self, tensor: str) -> None:
        """Forbid scaling of a tensor's channels."""
        if tensor in self.ids:
            self.free[self.root(self.ids[tensor])] = False

    def free_roots(self) -> NDArray[Any]:
        """Return the representatives of all groups that may be scaled."""
        roots = np.unique(self.root(np.arange(self.size)))
        return np.asarray(roots[self.free[roots]])

    def load(self, name: str, value: NDArray[Any]) -> None:
        """Remember a weight or bias for scaling."""
        self._arrays.setdefault(name, value.astype(np.float64))

    def multiply(self, name: str, factors: NDArray[Any], *, axis: int) -> None:
        """Scale a weight or bias along an axis."""
        array = self._arrays[name]
        shape = [1] * array.ndim
        shape[axis] = -1
        self._arrays[name] = array * factors.reshape(shape)

    def multiply_columns(self, reader: Layer, factors: NDArray[Any]) -> None:
        """Scale the part of a layer's weight that reads each input channel."""
        weight = self._arrays[reader.weight]
        per_group = weight.shape[1]
        rows = len(weight) // reader.groups
        for group in range(reader.groups):
            part = factors[group * per_group : (group + 1) * per_group]
            block = weight[group * rows : (group + 1) * rows]
            block *= part.reshape(1, -1, *([1] * (weight.ndim - 2)))

    def column_level(self, reader: Layer) -> NDArray[Any]:
        """Return how large the weights that read each input channel are.

        The geometric mean over output channels of the root mean square over the kernel: rescaling
        an output channel changes all columns alike, so the proportions do not depend on it.
        """
        weight = self._arrays[reader.weight]
        rows = len(weight) // reader.groups
        kernels = np.sqrt((weight.reshape(*weight.shape[:2], -1) ** 2).mean(axis=2))
        parts = []
        for group in range(reader.groups):
            block = kernels[group * rows : (group + 1) * rows]
            used = block > 0
            logs = np.where(used, np.log(np.where(used, block, 1.0)), 0.0).sum(axis=0)
            count = used.sum(axis=0)
            parts.append(np.where(count > 0, np.exp(logs / np.maximum(count, 1)), 0.0))
        return np.concatenate(parts)

    def store(self, model: ModelProto) -> None:
        """Write the scaled weights and biases into the model."""
        for initializer in model.graph.initializer:
            if initializer.name in self._arrays:
                value = self._arrays[initializer.name].astype(np.float32)
                initializer.CopyFrom(numpy_helper.from_array(value, initializer.name))


def map_channels(model: ModelProto) -> ChannelMap:
    """Follow the channels through a graph; whatever is not understood may not be scaled."""
    shapes = infer_shapes(model)
    index, channels = GraphIndex(model.graph), ChannelMap()
    for tensor in model.graph.input:
        _add_frozen(channels, tensor.name, shapes)
    for node in model.graph.node:
        _follow(node, index, channels, shapes)
    for output in model.graph.output:
        channels.freeze(output.name)
    return channels


def _follow(node: NodeProto, index: GraphIndex, channels: ChannelMap, shapes: _Shapes) -> None:
    source, output = node.input[0], node.output[0]
    known = source in channels.ids
    if node.op_type in ("Conv", "Gemm") and known and _add_layer(node, index, channels):
        return
    kept = node.op_type in _KEEP or (node.op_type == "Slice" and _keeps_channels(node, index))
    if kept and known:
        channels.ids[output] = channels.ids[source]
    elif node.op_type == "Pad" and known and (around := _channel_padding(node, index)) is not None:
        ids = [channels.fresh(around[0], free=True), channels.ids[source]]
        channels.ids[output] = _joined([*ids, channels.fresh(around[1], free=True)])
    elif node.op_type in ("Reshape", "Flatten", "Squeeze") and known and _is_flat(node, shapes):
        channels.ids[output] = channels.ids[source]
    elif node.op_type == "Add" and all(name in channels.ids for name in node.input):
        one, other = (channels.ids[name] for name in node.input)
        channels.tie(one, other)
        channels.ids[output] = one
    else:
        for name in node.input:
            channels.freeze(name)
        for name in node.output:
            _add_frozen(channels, name, shapes)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts)


def _add_frozen(channels: ChannelMap, tensor: str, shapes: _Shapes) -> None:
    shape = shapes.get(tensor, ())
    if len(shape) > 1 and shape[1]:
        channels.ids[tensor] = channels.fresh(shape[1], free=False)


def _add_layer(node: NodeProto, index: GraphIndex, channels: ChannelMap) -> bool:
    """Enter a layer as reader and writer; False if its weights cannot be scaled."""
    weight = index.constant(node.input[1])
    names = [name for name in node.input[1:] if name]
    shared = any(len(index.consumers[name]) > 1 for name in names)
    turned = node.op_type == "Gemm" and not attribute(node, "transB", 0)
    if weight is None or shared or turned or any(n not in index.initializers for n in names):
        return False
    groups = int(attribute(node, "group", 1))
    bias = names[1] if len(names) > 1 else ""
    for name in names:
        value = index.constant(name)
        assert value is not None  # an initializer
        channels.load(name, value)
    written = channels.fresh(len(weight), free=True)
    channels.ids[node.output[0]] = written
    channels.readers.append(Layer(channels.ids[node.input[0]], node.input[1], bias, groups))
    channels.writers.append(Layer(written, node.input[1], bias, groups))
    return True


def _keeps_channels(node: NodeProto, index: GraphIndex) -> bool:
    axes = index.constant(node.input[3]) if len(node.input) > 3 else None
    return axes is not None and not {1, -3} & set(axes.tolist())


def _channel_padding(node: NodeProto, index: GraphIndex) -> tuple[int, int] | None:
    """Return zero channels added in front and behind; None if it pads with something else."""
    pads = index.constant(node.input[1]) if len(node.input) > 1 else None
    value = index.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    zero = value is None or not value.any()
    if (
        pads is None
        or len(pads) != 8
        or not zero
        or attribute(node, "mode", b"constant") != b"constant"
    ):
        return None
    return int(pads[1]), int(pads[5])


def _is_flat(node: NodeProto, shapes: _Shapes) -> bool:
    """Whether the node only drops spatial extents of 1."""
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    return len(before) == 4 and before[2:] == (1, 1) and len(after) == 2 and before[1] == after[1]
