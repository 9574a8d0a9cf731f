"""The Wan-2.1 autoencoder (Wan et al. 2025, section 4.1) as a network of two dimensions.

The released network is one of films: its 3-D convolutions are causal, padded with zero frames at the front. A picture
is a film of one frame, so of each kernel only the last temporal slice ever meets anything but zeros, and the
convolutions over time (``time_conv``) never run. This network holds just those slices; ``weights.py`` knows where they
stand in the files. Module names are those of the files.

Shapes: B pictures, C channels, H x W pixels of the feature map at hand; N = H*W.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qi_plugins.vae_qwen.config import VaeConfig


class SliceConv(nn.Conv2d):
    """The last temporal slice of a causal 3-D convolution of ``size`` frames, rows and columns."""

    def __init__(self, inside: int, outside: int, size: int) -> None:
        super().__init__(inside, outside, size, padding=size // 2)


class Norm(nn.Module):
    """RMS norm over the channels: gamma * sqrt(C) * x / max(|x|, 1e-12).

    ``dims``: dimensions that the files' gamma has after the channels, all of size 1.
    """

    def __init__(self, channels: int, dims: int = 3) -> None:
        super().__init__()
        self.dims = dims
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # The norm is taken in float32 whatever x is. Scaling per pixel and then per channel reads x twice; this beats
        # F.normalize and F.rms_norm by 1.4x to 2.5x on a CPU.
        norm_B1HW = torch.linalg.vector_norm(x_BCHW, dim=1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        scale_B1HW = (math.sqrt(x_BCHW.shape[1]) / norm_B1HW).to(x_BCHW.dtype)
        return x_BCHW.mul(scale_B1HW).mul(self.gamma[:, None, None])


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice; and a way around."""

    def __init__(self, inside: int, outside: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = Norm(inside)
        self.conv1 = SliceConv(inside, outside, 3)
        self.norm2 = Norm(outside)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = SliceConv(outside, outside, 3)
        self.conv_shortcut = SliceConv(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.conv1(F.silu(self.norm1(x_BCHW)))
        y_BCHW = self.conv2(self.dropout(F.silu(self.norm2(y_BCHW))))
        return y_BCHW + self.conv_shortcut(x_BCHW)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """One head over all pixels of a frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, dims=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        qkv_B3CN = self.to_qkv(self.norm(x_BCHW)).flatten(2)
        q_B1NC, k_B1NC, v_B1NC = qkv_B3CN.transpose(1, 2)[:, None].chunk(3, dim=-1)
        y_B1NC = F.scaled_dot_product_attention(q_B1NC, k_B1NC, v_B1NC)
        y_BCHW = y_B1NC[:, 0].transpose(1, 2).reshape(x_BCHW.shape)
        return x_BCHW + self.proj(y_BCHW)  # type: ignore[no-any-return]


class MidBlock(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels)])
        self.resnets = nn.ModuleList(ResBlock(channels, channels, dropout) for _ in range(2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.resnets[0](x_BCHW)
        return self.resnets[1](self.attentions[0](x_BCHW))  # type: ignore[no-any-return]


class Halve(nn.Module):
    """Half the sides, same channels. ``in_time``: the files hold a ``time_conv`` beside it."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.time_shape = (channels, channels, 3, 1, 1) if in_time else None
        # Padding on the right and below alone, as the weights were trained.
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.resample(x_BCHW)  # type: ignore[no-any-return]


class NearestConv(nn.Conv2d):
    """Twice the sides by nearest neighbours, then 3 x 3: without ever making the big picture.

    Neighbours of a doubled picture are equal, so each of the four pixels (y, x) that come of one only sees 2 x 2
    different ones, through kernels whose taps are sums of the 3 x 3 kernel's: 16 products instead of 36. Measured on a
    CPU: half the time, an eighth of the whole decoder's.
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        height, width = x_BCHW.shape[2:]
        # Sums in float32: a bfloat16 kernel is rounded once more, not twice.
        kernel_OI33 = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        kernel_xyOI22 = _phases(_phases(kernel_OI33, 2), 4).to(self.weight.dtype)
        kernel_KI22 = kernel_xyOI22.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        bias = self.bias.repeat(4) if self.bias is not None else None
        y_BKHW = F.conv2d(x_BCHW, kernel_KI22, bias, padding=1)  # one row and one column more than needed
        y_BHWxyO = y_BKHW.permute(0, 2, 3, 1).reshape(-1, height + 1, width + 1, 2, 2, self.out_channels)
        rows = [torch.stack([y_BHWxyO[:, y : y + height, x : x + width, x, y] for x in (0, 1)], dim=3) for y in (0, 1)]
        y_BHyWxO = torch.stack(rows, dim=2)
        return y_BHyWxO.reshape(len(x_BCHW), 2 * height, 2 * width, self.out_channels).permute(0, 3, 1, 2)


def _phases(kernel: Tensor, dim: int) -> Tensor:
    """Three taps along ``dim`` -> (2, ...) two taps, for the first and the second of two equal neighbours."""
    before, here, after = kernel.unbind(dim)
    first, second = (before, here + after), (before + here, after)
    return torch.stack([torch.stack(first, dim), torch.stack(second, dim)])


class Twice(nn.Module):
    """Twice the sides, half the channels. ``in_time``: the files hold a ``time_conv`` beside it."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.time_shape = (2 * channels, channels, 3, 1, 1) if in_time else None
        # The convolution is number 1 in the files; number 0 is the doubling, which has no weights.
        self.resample = nn.Sequential(nn.Identity(), NearestConv(channels, channels // 2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.resample(x_BCHW)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """One stage of the decoder."""

    def __init__(self, inside: int, outside: int, blocks: int, dropout: float, upsampler: Twice | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(outside if i else inside, outside, dropout) for i in range(blocks))
        self.upsamplers = nn.ModuleList([upsampler] if upsampler is not None else [])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x_BCHW = layer(x_BCHW)
        return x_BCHW


class Encoder(nn.Module):
    """Pixels -> mean and log-variance of a latent pixel, before the last 1x1 convolution."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        dims = [config.base_dim * multiple for multiple in config.dim_mult]
        self.conv_in = SliceConv(config.input_channels, config.base_dim, 3)
        blocks: list[nn.Module] = []
        inside = config.base_dim
        for stage, outside in enumerate(dims):
            for _ in range(config.num_res_blocks):
                blocks.append(ResBlock(inside, outside, config.dropout))
                inside = outside
            if stage < len(dims) - 1:
                blocks.append(Halve(outside, config.temperal_downsample[stage]))
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MidBlock(dims[-1], config.dropout)
        self.norm_out = Norm(dims[-1])
        self.conv_out = SliceConv(dims[-1], 2 * config.z_dim, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.conv_in(x_BCHW)
        for block in self.down_blocks:
            x_BCHW = block(x_BCHW)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x_BCHW))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latent pixels, after the first 1x1 convolution -> pixels, not yet clamped."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        dims = [config.base_dim * multiple for multiple in reversed(config.dim_mult)]
        self.conv_in = SliceConv(config.z_dim, dims[0], 3)
        self.mid_block = MidBlock(dims[0], config.dropout)
        in_time = config.temperal_downsample[::-1]
        blocks: list[nn.Module] = []
        inside = dims[0]
        for stage, outside in enumerate(dims):
            upsampler = Twice(outside, in_time[stage]) if stage < len(dims) - 1 else None
            blocks.append(UpBlock(inside, outside, config.num_res_blocks + 1, config.dropout, upsampler))
            inside = outside // 2
        self.up_blocks = nn.ModuleList(blocks)
        self.norm_out = Norm(dims[-1])
        self.conv_out = SliceConv(dims[-1], config.input_channels, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.mid_block(self.conv_in(x_BCHW))
        for block in self.up_blocks:
            x_BCHW = block(x_BCHW)
        return self.conv_out(F.silu(self.norm_out(x_BCHW)))  # type: ignore[no-any-return]


class VaeNetwork(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.quant_conv = SliceConv(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = SliceConv(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, channels, H, W) pixels in [-1, 1] -> (B, z, H/8, W/8): the mode (that is, the mean) of the posterior."""
        return self.quant_conv(self.encoder(pixels_BCHW)).chunk(2, dim=1)[0]  # type: ignore[no-any-return]

    def decode(self, z_BCHW: Tensor) -> Tensor:
        """(B, z, h, w) -> (B, channels, 8h, 8w), not yet clamped."""
        return self.decoder(self.post_quant_conv(z_BCHW))  # type: ignore[no-any-return]
