"""The detector network: residual CNN, feature pyramid, dense anchor-free head, and how its raw output is decoded.

Output locations lie every 4, 8, 16 and 32 pixels; objects are found on the levels that fit their size. Cost is kept
below 10 ms for a 384x224 frame on one CPU thread: channel counts are multiples of 16 (ONNX Runtime blocks channels by
16, so 24 costs as much as 32), activations are ReLU (fused into the convolution), and attention is
squeeze-and-excitation at strides 16 and 32 only, where it costs under 1 %.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from visuomotor.perception.tasks import get_perception

STRIDES_PX = (4, 8, 16, 32)


class Channels(NamedTuple):
    """Where what is in the raw output, ``width`` channels in all."""

    score: slice  # class logits
    box: slice  # log distances to left, top, right, bottom
    ground: slice
    heading: slice
    size: slice
    width: int

    @classmethod
    def of(cls, classes: int) -> Channels:
        """The layout for so many classes."""
        edges = [classes, classes + 4, classes + 6, classes + 8, classes + 10]
        slices = [slice(start, end) for start, end in itertools.pairwise([0, *edges])]
        return cls(slices[0], slices[1], slices[2], slices[3], slices[4], edges[-1])


class DetectorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Widths and depths of the network; strides are 2 (stem), 4, 8, 16, 32."""

    stem: int = 16
    widths: tuple[int, int, int, int] = (32, 48, 80, 112)
    blocks: tuple[int, int, int, int] = (1, 1, 2, 1)
    pyramid: int = 48
    head: int = 64
    dropout: float = 0.05
    size_prior_m: tuple[tuple[float, float], ...] = get_perception().placement.size_prior_m  # one row per class


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation, with ReLU unless ``act`` is False."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, act: bool = True) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            *([nn.ReLU(inplace=True)] if act else []),
        )

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The normalisation layer."""
        layer = self[1]
        assert isinstance(layer, nn.BatchNorm2d)
        return layer


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): the whole image decides how much each channel counts."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same, channels scaled by 0..1."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(pooled))))


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int, hidden: int, *, attention: bool) -> None:
        super().__init__()
        self.first = ConvNorm(channels, hidden)
        self.second = ConvNorm(hidden, channels, act=False)
        self.attention = ChannelAttention(channels) if attention else nn.Identity()
        nn.init.zeros_(self.second.norm.weight)  # starts as the identity (Goyal et al. 2017)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return functional.relu(x + self.attention(self.second(self.first(x))))


class Backbone(nn.Module):
    """Image -> feature maps at strides 4, 8, 16, 32."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(3, config.stem, stride=2)
        widths = (config.stem, *config.widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvNorm(widths[i], widths[i + 1], stride=2),
                # At stride 4 a full block would cost a fifth of the whole network: half its width there.
                *(
                    Residual(widths[i + 1], widths[i + 1] // (2 if i == 0 else 1), attention=i >= 2)
                    for _ in range(config.blocks[i])
                ),
            )
            for i in range(4)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image [B, 3, H, W] -> four maps [B, C_i, H / 2^(i+2), W / 2^(i+2)]."""
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class DetectorModel(nn.Module):
    """Image -> raw output map; ``decode`` turns raw values at locations into boxes, ground points, headings, sizes."""

    size_prior_m: Tensor

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DetectorConfig()
        self.channels = Channels.of(len(config.size_prior_m))
        fine, *_ = config.widths
        self.backbone = Backbone(config)
        self.lateral = nn.ModuleList(
            ConvNorm(width, fine if i == 0 else config.pyramid, 1) for i, width in enumerate(config.widths)
        )
        self.merge32 = ConvNorm(config.pyramid, config.pyramid)
        self.merge16 = ConvNorm(config.pyramid, config.pyramid)
        self.merge8 = ConvNorm(config.pyramid, config.pyramid)
        self.narrow = ConvNorm(config.pyramid, fine, 1)
        # The coarse levels come straight from their merge: one more 3x3 convolution each would cost half a millisecond.
        self.heads = nn.ModuleList(
            nn.Sequential(
                ConvNorm(fine, fine) if i == 0 else nn.Identity(),
                ConvNorm(fine if i == 0 else config.pyramid, config.head, 1),
                nn.Dropout(config.dropout),
            )
            for i in range(len(STRIDES_PX))
        )
        self.outs = nn.ModuleList(_make_out(config.head, self.channels) for _ in STRIDES_PX)
        self.register_buffer("size_prior_m", torch.tensor(config.size_prior_m))

    def forward(self, image: Tensor) -> list[Tensor]:
        """BGR 0..255, float [B, 3, H, W], sides multiples of 32 -> raw [B, channels, H / s, W / s] by level."""
        maps = self.backbone((image - 114.0) * (1.0 / 58.0))
        lateral = [layer(feature) for layer, feature in zip(self.lateral, maps, strict=True)]
        p32 = self.merge32(lateral[3])
        p16 = self.merge16(lateral[2] + _enlarge(p32, lateral[2]))
        p8 = self.merge8(lateral[1] + _enlarge(p16, lateral[1]))
        p4 = lateral[0] + _enlarge(self.narrow(p8), lateral[0])
        features = [head(x) for head, x in zip(self.heads, (p4, p8, p16, p32), strict=True)]
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 would round box edges to a fifth of a pixel
            return [out(x.float()) for out, x in zip(self.outs, features, strict=True)]

    def decode(self, raw: Tensor, location: Tensor, class_id: Tensor) -> Decoded:
        """Raw values [..., channels] at locations [..., 3], of the given class [...]."""
        return decode(raw, location, self.size_prior_m[class_id], self.channels)


def _make_out(width: int, channels: Channels) -> nn.Conv2d:
    out = nn.Conv2d(width, channels.width, 1)
    nn.init.normal_(out.weight, std=0.01)
    bias = torch.zeros(channels.width)
    bias[channels.score] = -4.6  # about 1 % objects at the start (Lin et al. 2017)
    bias[channels.box] = 1.0
    out.bias = nn.Parameter(bias)
    return out


def flatten(raw: list[Tensor]) -> Tensor:
    """Raw maps of all levels to [B, L, channels], in the order of ``make_locations``."""
    return torch.cat([level.flatten(2) for level in raw], dim=2).transpose(1, 2)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="nearest")


class Decoded(msgspec.Struct):
    """Decoded objects; leading dimensions as given to ``decode``."""

    box_px: Tensor  # [..., 4] x0, y0, x1, y1
    ground_px: Tensor  # [..., 2]
    heading: Tensor  # [..., 2] sine and cosine of the observation angle times the symmetry, unit length
    size_m: Tensor  # [..., 2] length, width


def decode_boxes(raw: Tensor, location: Tensor) -> Tensor:
    """Log distances [..., 4] in strides at locations [..., 3] to boxes [..., 4]; exp keeps relative precision."""
    distance = raw.clamp(max=6.0).exp() * location[..., 2:]
    return torch.cat([location[..., :2] - distance[..., :2], location[..., :2] + distance[..., 2:]], dim=-1)


def decode(raw: Tensor, location: Tensor, prior_m: Tensor, channels: Channels) -> Decoded:
    """See ``DetectorModel.decode``.

    The ground point is measured from the middle of the box's lower edge in units of the box height, so that the raw
    value is small and does not depend on range. The height is detached: it only sets the scale.
    """
    box = decode_boxes(raw[..., channels.box], location)
    height = (box[..., 3:4] - box[..., 1:2]).detach()
    foot = torch.cat([(box[..., 0:1] + box[..., 2:3]) * 0.5, box[..., 3:4]], dim=-1)
    heading = raw[..., channels.heading]
    heading = heading / (heading.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    return Decoded(
        box_px=box,
        ground_px=foot + raw[..., channels.ground] * height,
        heading=heading,
        size_m=prior_m * raw[..., channels.size].clamp(-1.5, 1.5).exp(),
    )


def make_locations(height: int, width: int) -> Tensor:
    """Centres of the output cells of an image and their strides, level by level, row by row, px, [L, 3]."""
    levels = []
    for stride in STRIDES_PX:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        centre = (torch.stack([x, y], dim=-1).reshape(-1, 2).float() + 0.5) * stride
        levels.append(torch.cat([centre, torch.full_like(centre[:, :1], stride)], dim=1))
    return torch.cat(levels)


@torch.no_grad()
def recalibrate(model: DetectorModel, batches: Iterable[Tensor]) -> None:
    """Set the batch-norm statistics to the averages over ``batches`` of images, in place.

    Averaged weights need their own statistics, and so does each camera kind (front and side images differ in horizon
    and scale): weights are shared, statistics are not (Wu and Johnson 2021, 'Rethinking Batch in BatchNorm').
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
