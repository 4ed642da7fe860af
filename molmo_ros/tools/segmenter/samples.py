"""Training samples: crops around points, cut and augmented at random on the training device."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from molmo_ros.perception.learned_mask import CROP, HALF_M
from molmo_ros.tools.segmenter.data import Frames

OFF_SHARE = 0.06  # of the crops are around a point beside all things: its mask is empty
POINTS = 6  # queried in one crop, its middle first
JITTER_PX = 1.0
MISALIGNED = 0.3  # cells, sigma per axis: colour against depth and truth, as after imperfect calibration


@dataclass(frozen=True)
class Inputs:
    """What MaskNet takes, (B,...)."""

    rgb: Tensor
    depth: Tensor
    rays: Tensor
    point: Tensor
    plane: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In the order of MaskNet's arguments."""
        return self.rgb, self.depth, self.rays, self.point, self.plane


@dataclass(frozen=True)
class Targets:
    """What is true of crops.

    points (B,P,2): row and column of the queried cells; masks (B,P,S,S) of the things there; things (B,S,S),
    everything but the support; weight (B,S,S), more beside borders of things.
    """

    points: Tensor
    masks: Tensor
    things: Tensor
    weight: Tensor


class Samples:
    """Frames on a device. batch() draws points evenly over things, so that large ones do not dominate."""

    def __init__(self, frames: Frames, device: torch.device) -> None:
        self.device = device
        for f in fields(Frames):
            setattr(self, f.name, torch.from_numpy(getattr(frames, f.name)).to(device))
        self.rgb: Tensor
        self.depth: Tensor
        self.ids: Tensor
        self.camera: Tensor
        self.plane: Tensor
        self.points: Tensor
        on = self.points[:, 3] > 0
        self.on, self.off = self.points[on], self.points[~on]

    def __len__(self) -> int:
        return len(self.rgb)

    def batch(self, size: int, generator: torch.Generator, augment: bool = True) -> tuple[Inputs, Targets]:
        """Return inputs and their targets."""
        on = self.on[self._integers(len(self.on), size, generator)]
        if augment and len(self.off):
            off = self.off[self._integers(len(self.off), size, generator)]
            beside = torch.rand(size, generator=generator, device=self.device) < OFF_SHARE
            on = torch.where(beside[:, None], off, on)
        return self.cut(on, generator, augment)

    def cut(self, chosen: Tensor, generator: torch.Generator, augment: bool) -> tuple[Inputs, Targets]:
        """Cut crops around points (B,5) as ``learned_mask.crop_around`` does."""
        size = len(chosen)
        scene, u, v, thing, mm = chosen.long().unbind(1)
        z = mm.float() / 1000
        fx, fy, cx, cy = self.camera[scene].unbind(1)
        half = torch.full_like(z, HALF_M)
        x, y = u.float(), v.float()
        if augment:
            half = half * torch.exp(0.25 * (2 * self._uniform(size, generator) - 1))
            x = x + JITTER_PX * self._normal(size, generator)
            y = y + JITTER_PX * self._normal(size, generator)
        step = 2 * half * fx / z / CROP
        cells = torch.arange(CROP, device=self.device, dtype=torch.float32)
        u0, v0 = x - step * (CROP - 1) / 2, y - step * (CROP - 1) / 2
        columns, rows = u0[:, None] + step[:, None] * cells, v0[:, None] + step[:, None] * cells
        off = MISALIGNED * step * augment
        rgb = self._bilinear(
            scene,
            rows + (off * self._normal(size, generator))[:, None],
            columns + (off * self._normal(size, generator))[:, None],
        )
        flat, inside = self._nearest(rows, columns)
        depth = self.depth.view(len(self), -1)[scene[:, None], flat].view(size, CROP, CROP).float() / 1000
        depth = torch.where(inside & (depth < 4.0) & (depth > 0.1), depth, 0.0)
        ids = self.ids.view(len(self), -1)[scene[:, None], flat].view(size, CROP, CROP) * inside
        rays = torch.stack([(u0 - cx) / fx, step / fx, (v0 - cy) / fy, step / fy], 1)
        point = torch.stack([(x - cx) / fx * z, (y - cy) / fy * z, z], 1)
        inputs = Inputs(rgb, depth, rays, point, self.plane[scene])
        targets = self._targets(ids, depth, thing, generator)
        return (self._augmented(inputs, generator) if augment else inputs), targets

    def _targets(self, ids: Tensor, depth: Tensor, thing: Tensor, generator: torch.Generator) -> Targets:
        """Query the middle of crops, and other cells, each thing as often as any other."""
        size = len(ids)
        flat = ids.view(size, -1).long()
        area = torch.zeros(size, 256, device=self.device)
        area.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
        weight = torch.where(flat > 0, 1 / area.gather(1, flat), 0.3 / area.gather(1, flat))
        weight = weight * (depth.view(size, -1) > 0) + 1e-9
        others = torch.multinomial(weight, POINTS - 1, generator=generator)
        middle = torch.full((size, 1), CROP // 2 * (CROP + 1), device=self.device)
        cells = torch.cat([middle, others], dim=1)
        asked = torch.cat([thing[:, None], flat.gather(1, others)], dim=1)
        masks = (ids[:, None] == asked[:, :, None, None]) & (asked > 0)[:, :, None, None]
        points = torch.stack([cells // CROP, cells % CROP], dim=2)
        each = ids[:, None].float()
        border = functional.max_pool2d(each, 3, 1, 1) > -functional.max_pool2d(-each, 3, 1, 1)
        weight = 1 + 2 * functional.max_pool2d(border.float(), 3, 1, 1)[:, 0]
        return Targets(points, masks.float(), (ids > 0).float(), weight)

    def _augmented(self, i: Inputs, generator: torch.Generator) -> Inputs:
        size = len(i.rgb)
        rgb = self._other_colours(i.rgb / 255, generator)
        rgb = rgb * (i.rgb.sum(3, keepdim=True) > 0)  # beyond the image it stays black
        depth = self._worse_depth(i.depth, generator)
        n = i.plane[:, :3] + 0.02 * self._normal((size, 3), generator)
        plane = torch.cat([n / n.norm(dim=1, keepdim=True), i.plane[:, 3:]], dim=1)
        # rotated about the foot of the point, not about the camera
        plane[:, 3] = i.plane[:, 3] + ((i.plane[:, :3] - plane[:, :3]) * i.point).sum(1)
        plane[:, 3] += 0.003 * self._normal(size, generator)
        lost = self._uniform(size, generator)
        wrong = 0.1 * self._normal(size, generator) * (lost > 0.95)
        plane[:, 3] += wrong
        return Inputs(255 * rgb.clamp(0, 1), depth, i.rays, i.point, plane * (lost > 0.15)[:, None])

    def _other_colours(self, rgb: Tensor, generator: torch.Generator) -> Tensor:
        """Change gamma, gain and balance, mix channels or drop them, blur, add noise; (B,S,S,3) 0..1."""
        size = len(rgb)
        gamma = torch.exp(0.35 * self._normal((size, 1, 1, 1), generator))
        balance = 0.1 * self._normal((size, 1, 1, 3), generator)
        gain = torch.exp(0.25 * self._normal((size, 1, 1, 1), generator) + balance)
        rgb = (rgb.clamp(1e-3, 1) ** gamma) * gain
        grey = rgb.mean(3, keepdim=True)
        saturation = 1.0 + 0.4 * self._normal((size, 1, 1, 1), generator)
        saturation = torch.where(self._uniform((size, 1, 1, 1), generator) < 0.06, 0.0, saturation)
        rgb = grey + saturation * (rgb - grey)
        turned = self._uniform((size, 1, 1, 1), generator) < 0.2
        rgb = torch.where(turned, rgb.roll(1, dims=3), rgb)
        planes = rgb.permute(0, 3, 1, 2)
        blurred = functional.avg_pool2d(planes, 3, 1, 1)
        planes = torch.where(self._uniform((size, 1, 1, 1), generator) < 0.3, blurred, planes)
        strength = 0.03 * self._uniform((size, 1, 1, 1), generator)
        return planes.permute(0, 2, 3, 1) + strength * self._normal(rgb.shape, generator)

    def _worse_depth(self, depth: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise in patches, and lose patches; (B,S,S) m."""
        size = len(depth)
        noise = functional.interpolate(
            self._normal((size, 1, CROP // 4, CROP // 4), generator), size=(CROP, CROP), mode="bilinear"
        )[:, 0]
        strength = 0.0025 * self._uniform((size, 1, 1), generator) ** 2
        coarse = functional.interpolate(
            self._normal((size, 1, CROP // 12, CROP // 12), generator), size=(CROP, CROP), mode="bilinear"
        )[:, 0]
        threshold = 1.6 + 3.0 * self._uniform((size, 1, 1), generator)
        return (depth + strength * noise * depth.clamp(0.5, 2)) * (depth > 0) * (coarse < threshold)

    def _bilinear(self, scene: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Colour (B,S,S,3) at rows and columns (B,S); 0 beyond the image."""
        height, width = self.ids.shape[1:]
        r0, c0 = rows.floor(), columns.floor()
        wr, wc = (rows - r0)[:, :, None, None], (columns - c0)[:, None, :, None]
        colours = self.rgb.view(len(self), -1, 3)
        total = torch.zeros((*wr.shape[:2], wc.shape[2], 3), device=self.device)
        for dr in (0, 1):
            for dc in (0, 1):
                r, c = (r0 + dr).long(), (c0 + dc).long()
                inside = ((r >= 0) & (r < height))[:, :, None] & ((c >= 0) & (c < width))[:, None]
                flat = r.clamp(0, height - 1)[:, :, None] * width + c.clamp(0, width - 1)[:, None]
                weight = (wr if dr else 1 - wr) * (wc if dc else 1 - wc) * inside[..., None]
                total += weight * colours[scene[:, None, None], flat].float()
        return total

    def _nearest(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The pixel numbers (B,S*S) nearest to rows and columns (B,S), and which are in the image (B,S,S)."""
        height, width = self.ids.shape[1:]
        r, c = rows.round().long(), columns.round().long()
        inside = ((r >= 0) & (r < height))[:, :, None] & ((c >= 0) & (c < width))[:, None]
        flat = r.clamp(0, height - 1)[:, :, None] * width + c.clamp(0, width - 1)[:, None]
        return flat.flatten(1), inside

    def _integers(self, below: int, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(below, (count,), generator=generator, device=self.device)

    def _uniform(self, shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, device=self.device)

    def _normal(self, shape: int | tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=self.device)
