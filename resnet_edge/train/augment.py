"""Random shift and mirroring of whole batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["augment"]


def augment(pixels: Tensor, *, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift every image by a random crop of its padded self and mirror half of them."""
    import torch

    count, height, width, channels = pixels.shape
    if pad:
        padded = pixels.new_zeros(count, height + 2 * pad, width + 2 * pad, channels)
        padded[:, pad:-pad, pad:-pad] = pixels
        shift = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
        rows = (shift[0] + torch.arange(height))[:, :, None]
        columns = (shift[1] + torch.arange(width))[:, None, :]
        pixels = padded[torch.arange(count)[:, None, None], rows, columns]
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
    return pixels
