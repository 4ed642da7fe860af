"""The mask network: a crop around a point of an RGB-D image in, the mask of the thing at that point out.

A small residual U-Net (Ronneberger et al. 2015, arXiv 1505.04597; He et al. 2016, arXiv 1512.03385) looks at
the crop once. A light head then compares the features of each cell with those at a point, so that one pass
trains, and answers, several points (as in Segment Anything, Kirillov et al. 2023, arXiv 2304.02643).
It learns from simulation alone, as UOIS-Net (Xie et al. 2021, arXiv 2007.08073) and UCN (Xiang et al. 2020,
arXiv 2007.15157) do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (24, 48, 96, 128)
FEATURES = 13
BESIDE = 8  # inputs of the head per cell, besides the features
NEAR_M = 0.1  # unit of the distances given to the network


class MaskNet(nn.Module):
    """Crops (B,...) of side S = CROP -> logits (B,2,S,S), of the thing at their middle and of all things, and
    logits (B,) of the IoU that the first mask has.

    Inputs, as ``learned_mask.crop_around`` makes them: rgb (B,S,S,3) float 0..255; depth (B,S,S) m, 0 where
    there is none; rays (B,4), so that cell i, j looks along (rays[0] + rays[1] j, rays[2] + rays[3] i, 1);
    point (B,3) m, the lifted point; plane (B,4), the support, or zeros if it is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = CHANNELS
        self.stem = _conv(FEATURES, a, stride=2)
        self.down1 = Block(a)
        self.to2 = _conv(a, b, stride=2)
        self.down2 = nn.Sequential(Block(b), Block(b))
        self.to3 = _conv(b, c, stride=2)
        self.down3 = nn.Sequential(Block(c), Block(c))
        self.to4 = _conv(c, d, stride=2)
        self.bottom = nn.Sequential(Block(d), Block(d), Block(d))
        self.up3, self.back3 = _conv(d, c, kernel=1), Block(c)
        self.up2, self.back2 = _conv(c, b, kernel=1), Block(b)
        self.up1, self.back1 = _conv(b, a, kernel=1), Block(a)
        self.things = nn.Conv2d(a, 4, 1)
        self.cell, self.beside = nn.Conv2d(a, 48, 1), nn.Conv2d(BESIDE, 48, 1, bias=False)
        self.at_point = nn.Linear(a, 48, bias=False)
        self.mix = nn.Conv2d(48, 32, 1)
        self.around = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.mask = nn.Conv2d(32, 4, 1)
        self.iou = nn.Sequential(nn.Linear(2 * a, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(
        self, rgb: Tensor, depth: Tensor, rays: Tensor, point: Tensor, plane: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen, places, colours = self.look(rgb, depth, rays, point, plane)
        middle = seen.shape[-1] // 2
        own = seen[:, :, middle - 1 : middle + 1, middle - 1 : middle + 1].mean((2, 3))
        colour = colours[:, :, middle - 1 : middle + 1, middle - 1 : middle + 1].mean((2, 3))
        cells = self.cell(seen)
        logits, iou = self.answer(seen, cells, places, colours, own, torch.zeros_like(point), colour)
        things = functional.pixel_shuffle(self.things(seen), 2)
        return torch.cat([logits, things], dim=1), iou

    def look(
        self, rgb: Tensor, depth: Tensor, rays: Tensor, point: Tensor, plane: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B,C,S/2,S/2), and places (B,4,S/2,S/2) relative to the point, the last of them
        whether they are known, and colours (B,3,S/2,S/2), at the same cells."""
        x = features(rgb, depth, rays, point, plane)
        beside = functional.avg_pool2d(x, 2)
        x1 = self.down1(self.stem(x))
        x2 = self.down2(self.to2(x1))
        x3 = self.down3(self.to3(x2))
        x4 = self.bottom(self.to4(x3))
        x = self.back3(x3 + _twice(self.up3(x4)))
        x = self.back2(x2 + _twice(self.up2(x)))
        x = self.back1(x1 + _twice(self.up1(x)))
        return x, torch.cat([beside[:, 3:6], beside[:, 11:12]], 1), beside[:, :3]

    def answer(
        self,
        seen: Tensor,
        cells: Tensor,
        places: Tensor,
        colours: Tensor,
        own: Tensor,
        at: Tensor,
        colour: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B,1,S,S) of the mask of the thing at one point of each crop, and (B,) of its IoU.

        cells: self.cell(seen), the same for all points; own (B,C), colour (B,3): features and colour there;
        at (B,3), its place as in places.
        """
        away = (places[:, :3] - at[:, :, None, None]) * places[:, 3:]
        far = away.pow(2).sum(1, keepdim=True).add(1e-4).sqrt()
        other = colours - colour[:, :, None, None]
        beside = torch.cat([away, places[:, 3:], far, other], dim=1)
        x = cells + self.beside(beside) + self.at_point(own)[:, :, None, None]
        x = functional.relu(self.mix(functional.relu(x)))
        x = functional.relu(x + self.around(x))
        coarse = self.mask(x)
        inside = torch.sigmoid(coarse.detach().mean(1, keepdim=True))
        of_mask = (seen.detach() * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1.0)
        iou = self.iou(torch.cat([own.detach(), of_mask], dim=1))[:, 0]
        return functional.pixel_shuffle(coarse, 2), iou


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def features(rgb: Tensor, depth: Tensor, rays: Tensor, point: Tensor, plane: Tensor) -> Tensor:
    """What the network sees (B,FEATURES,S,S): colour 3, place relative to the point 3, normal 3, height above
    the support and whether it is known 2, depth is known 1, step of depth to the neighbours 1.
    """
    size = depth.shape[-1]
    known = (depth > 0).float()
    cells = torch.arange(size, device=depth.device, dtype=torch.float32)
    x = (rays[:, 0, None] + rays[:, 1, None] * cells)[:, None, :] * depth
    y = (rays[:, 2, None] + rays[:, 3, None] * cells)[:, :, None] * depth
    place = torch.stack([x, y, depth], dim=1)
    away = ((place - point[:, :, None, None]) / NEAR_M).clamp(-4.0, 4.0) * known[:, None]
    normal = _normals(place, known)
    has_plane = (plane.abs().sum(1) > 0).float()[:, None, None] * known
    height = (place * plane[:, :3, None, None]).sum(1) + plane[:, 3, None, None]
    height = (height / (NEAR_M / 2)).clamp(-2.0, 4.0) * has_plane
    colour = rgb.permute(0, 3, 1, 2) / 127.5 - 1.0
    single = torch.stack([height, has_plane, known, _step(depth, known)], dim=1)
    return torch.cat([colour, away, normal, single], dim=1)


def _normals(place: Tensor, known: Tensor) -> Tensor:
    """Unit normals (B,3,S,S) from differences over two cells each way; zero where one of these is unknown."""
    right, left = place[:, :, 2:-2, 4:], place[:, :, 2:-2, :-4]
    below, above = place[:, :, 4:, 2:-2], place[:, :, :-4, 2:-2]
    i, j = right - left, below - above
    n = torch.stack(
        [
            j[:, 1] * i[:, 2] - j[:, 2] * i[:, 1],
            j[:, 2] * i[:, 0] - j[:, 0] * i[:, 2],
            j[:, 0] * i[:, 1] - j[:, 1] * i[:, 0],
        ],
        dim=1,
    )
    n = n / (n.pow(2).sum(1, keepdim=True).sqrt() + 1e-9)
    usable = known[:, 2:-2, 4:] * known[:, 2:-2, :-4] * known[:, 4:, 2:-2] * known[:, :-4, 2:-2]
    return functional.pad(n * usable[:, None], (2, 2, 2, 2))


def _step(depth: Tensor, known: Tensor) -> Tensor:
    """How much depth changes across a cell (B,S,S), in units of 1 cm, at most 2."""
    across = (depth[:, 1:-1, 2:] - depth[:, 1:-1, :-2]) * known[:, 1:-1, 2:] * known[:, 1:-1, :-2]
    along = (depth[:, 2:, 1:-1] - depth[:, :-2, 1:-1]) * known[:, 2:, 1:-1] * known[:, :-2, 1:-1]
    step = torch.maximum(across.abs(), along.abs()) / 0.01
    return functional.pad(step.clamp(max=2.0), (1, 1, 1, 1))
