"""A VQ-GAN in the module names of taming-transformers: pictures to codes and back. Imports torch.

Esser et al. 2021, Taming Transformers; names and sizes are those of taming/models/vqgan.py (VQModel) and
taming/modules/diffusionmodules/model.py, so that its checkpoints need no key map. Training parts are not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

GROUPS, EPSILON = 32, 1e-6


def norm(width: int) -> nn.GroupNorm:
    """The one kind of norm it uses."""
    return nn.GroupNorm(GROUPS, width, eps=EPSILON)


class ResnetBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm1 = norm(width)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.norm2 = norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, width, h, w) -> (n, out, h, w)."""
        hidden = self.conv1(functional.silu(self.norm1(image)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        made: torch.Tensor = hidden + (self.nin_shortcut(image) if hasattr(self, "nin_shortcut") else image)
        return made


class AttnBlock(nn.Module):
    """Every place attends to all places, one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, width, h, w), same shape out."""
        normed = self.norm(image)
        q, k, v = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen = functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        made: torch.Tensor = image + self.proj_out(seen.transpose(1, 2).reshape(image.shape))
        return made


class Middle(nn.Module):
    """What stands between the halves of each network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(width, width)
        self.attn_1 = AttnBlock(width)
        self.block_2 = ResnetBlock(width, width)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, width, h, w), same shape out."""
        made: torch.Tensor = self.block_2(self.attn_1(self.block_1(image)))
        return made


class Halve(nn.Module):
    """Half the sides; the row and the column the stride lacks are zeros below and to the right."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, width, h, w) -> (n, width, h / 2, w / 2)."""
        made: torch.Tensor = self.conv(functional.pad(image, (0, 1, 0, 1)))
        return made


class Double(nn.Module):
    """Double the sides, each pixel four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, width, h, w) -> (n, width, 2 h, 2 w)."""
        made: torch.Tensor = self.conv(functional.interpolate(image, scale_factor=2.0, mode="nearest"))
        return made


class Level(nn.Module):
    """The blocks of one resolution; `downsample` or `upsample`, where there is one, leads to the next."""

    def __init__(self, widths: Sequence[int], *, attends: bool) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.block = nn.ModuleList(ResnetBlock(width, out) for width, out in pairs)
        self.attn = nn.ModuleList(AttnBlock(out) for _, out in pairs if attends)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, first width, h, w) -> (n, last width, h, w), or what the next level takes."""
        for number, block in enumerate(self.block):
            image = block(image)
            if len(self.attn):
                image = self.attn[number](image)
        for name in ("downsample", "upsample"):
            if name in self._modules:
                image = self.get_submodule(name)(image)
        return image


class Encoder(nn.Module):
    """A picture to its latent, each level half as wide as the last."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        widths = [sizes["ch"] * factor for factor in sizes["ch_mult"]]
        self.conv_in = nn.Conv2d(sizes["in_channels"], sizes["ch"], 3, padding=1)
        self.down = nn.ModuleList()
        before, side = sizes["ch"], sizes["resolution"]
        for number, width in enumerate(widths):
            level = Level([before, *[width] * sizes["num_res_blocks"]], attends=side in sizes["attn_resolutions"])
            if number < len(widths) - 1:
                level.downsample = Halve(width)
                side //= 2
            self.down.append(level)
            before = width
        self.mid = Middle(before)
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, sizes["z_channels"], 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) -> (n, z_channels, grid, grid)."""
        hidden: torch.Tensor = self.conv_in(image)
        for level in self.down:
            hidden = level(hidden)
        made: torch.Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(hidden))))
        return made


class Decoder(nn.Module):
    """A latent to a picture; `up` counts levels from the finest, and runs backwards."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        widths = [sizes["ch"] * factor for factor in sizes["ch_mult"]]
        before, side = widths[-1], sizes["resolution"] // 2 ** (len(widths) - 1)
        self.conv_in = nn.Conv2d(sizes["z_channels"], before, 3, padding=1)
        self.mid = Middle(before)
        made: list[Level] = []
        for number, width in reversed(list(enumerate(widths))):
            level = Level([before, *[width] * (sizes["num_res_blocks"] + 1)], attends=side in sizes["attn_resolutions"])
            if number > 0:
                level.upsample = Double(width)
                side *= 2
            made.insert(0, level)
            before = width
        self.up = nn.ModuleList(made)
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, sizes["out_ch"], 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """(n, z_channels, grid, grid) -> (n, 3, side, side)."""
        hidden: torch.Tensor = self.mid(self.conv_in(latent))
        for level in reversed(self.up):
            hidden = level(hidden)
        made: torch.Tensor = self.conv_out(functional.silu(self.norm_out(hidden)))
        return made


class Codebook(nn.Module):
    """The vectors a latent is matched with."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, width)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """(n, width, grid, grid) -> codes (n, grid * grid), row by row: the nearest vector of each place."""
        places = latent.permute(0, 2, 3, 1).reshape(-1, latent.shape[1])
        book = self.embedding.weight
        distance = (places**2).sum(1, keepdim=True) + (book**2).sum(1) - 2 * places @ book.T
        return distance.argmin(dim=1).reshape(len(latent), -1)


class VqGan(nn.Module):
    """Pictures (n, 3, side, side) from -1 to 1, and codes (n, grid * grid).

    `sizes` are `ddconfig` of the authors' file with `n_embed` and `embed_dim` beside them.
    """

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(sizes), Decoder(sizes)
        self.quantize = Codebook(sizes["n_embed"], sizes["embed_dim"])
        self.quant_conv = nn.Conv2d(sizes["z_channels"], sizes["embed_dim"], 1)
        self.post_quant_conv = nn.Conv2d(sizes["embed_dim"], sizes["z_channels"], 1)

    def latent(self, image: torch.Tensor) -> torch.Tensor:
        """What is matched with the codebook: (n, embed_dim, grid, grid)."""
        made: torch.Tensor = self.quant_conv(self.encoder(image))
        return made

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Codes (n, grid * grid) of pictures."""
        codes: torch.Tensor = self.quantize(self.latent(image))
        return codes

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures of codes (n, grid * grid), not yet clipped to -1..1."""
        grid = round(codes.shape[1] ** 0.5)
        vectors = self.quantize.embedding(codes).reshape(len(codes), grid, grid, -1).permute(0, 3, 1, 2)
        made: torch.Tensor = self.decoder(self.post_quant_conv(vectors))
        return made
