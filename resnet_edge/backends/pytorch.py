"""PyTorch: the reference every candidate is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from resnet_edge.backends.base import Availability, Session
from resnet_edge.images.spec import ImageSpec
from resnet_edge.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from resnet_edge.models.resnet import ResNet

__all__ = ["TorchSession", "deployable", "probe"]

# PyTorch allocates every activation anew: of larger batches the kernel clears the pages first.
_PIXELS = 8 * 224 * 224


def probe() -> Availability:
    """Say whether PyTorch is installed, and whether it sees a GPU."""
    try:
        import torch
    except ImportError:
        return Availability(False, None, "not installed: pip install 'resnet-edge[export]'")
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only"
    return Availability(True, torch.__version__, cuda)


def deployable(model: ResNet, spec: ImageSpec) -> nn.Module:
    """Return the module that takes the spec's input: the network, or cast + normalise + network."""
    import torch
    from torch import nn

    if spec.input == "float":
        return model

    shape = (1, spec.channels, 1, 1)

    class FromPixels(nn.Module):
        """Raw uint8 N x H x W x C to logits."""

        def __init__(self) -> None:
            super().__init__()
            self.network = model
            self.scale = nn.Buffer(torch.tensor([255.0 * s for s in spec.std]).view(shape))
            self.offset = nn.Buffer(torch.tensor([255.0 * m for m in spec.mean]).view(shape))

        def forward(self, pixels: Tensor) -> Tensor:
            # The cast comes first: TensorRT refuses to transpose uint8.
            x = pixels.float().permute(0, 3, 1, 2).contiguous()
            logits: Tensor = self.network((x - self.offset) / self.scale)
            return logits

    return FromPixels().eval()


class TorchSession(Session):
    """A network in PyTorch, in evaluation mode, float32.

    Args:
        model: The network.
        spec: Fixes the input's shape and type.
        threads: Intra-op threads; 0 keeps PyTorch's own choice.
    """

    def __init__(self, model: ResNet, spec: ImageSpec, *, threads: int = 0) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._module = deployable(model.eval(), spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        dtype = "uint8" if spec.input == "uint8" else "float32"
        self._height, self._width = spec.crop
        self.inputs = (TensorSpec("input", (None, *spec.input_shape), dtype),)
        self.outputs = (TensorSpec("logits", (None, model.config.outputs), "float32"),)

    @property
    def batch_range(self) -> tuple[int, int | None]:
        """Any batch runs; beyond these many images at a time each takes longer."""
        return 1, max(1, _PIXELS // (self._height * self._width))

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once and return the logits."""
        import torch

        with torch.inference_mode():
            logits = self._module(torch.from_numpy(feed["input"]))
        return {"logits": logits.numpy()}

    def close(self) -> None:
        """Drop the network."""
        del self._module
