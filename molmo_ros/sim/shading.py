"""Colour of what the rays hit in a room: painted surfaces under several lamps, seen by an exposed camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from molmo_ros.datatypes import Image
from molmo_ros.sim import objects
from molmo_ros.sim.scene import Room, Scene, SimObject
from molmo_ros.sim.skin import Paint, Skin, albedo, material_flags

HIGHLIGHT = 0.9  # of a lamp in a surface of gloss 1
SHININESS = 8.0, 90.0  # Phong exponent of gloss 0 and 1
CLEAR = 0.72  # share of the light from behind that a transparent thing lets through, seen head on


@dataclass(frozen=True)
class Hits:
    """What N rays hit: index of the mesh (N,), part of its face (N,), point, normal and view (N,3), lit (N,).

    normal: unit, towards the eye; view: unit, away from the eye; lit: the first lamp is seen from there.
    """

    mesh: np.ndarray
    part: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    view: np.ndarray
    lit: np.ndarray


def skin_of(thing: SimObject) -> Skin:
    """Skin of a thing; a thing without one has the plain colours of its kind."""
    if thing.skin is not None:
        return thing.skin
    return Skin(
        tuple(Paint(np.tile(color, (3, 1)), gloss=0.3) for color in objects.palette(thing.kind, thing.color))
    )


def surface(scene: Scene, room: Room, hits: Hits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear albedo (N,3), gloss (N,) and flags of the material (N,) uint8."""
    count = len(hits.mesh)
    color = np.zeros((count, 3), np.float32)
    gloss, flags = np.zeros(count, np.float32), np.zeros(count, np.uint8)
    bodies = [(f.T_world_fixture, f.skin) for f in room.fixtures]
    bodies += [(o.T_world_object, skin_of(o)) for o in scene.objects]
    key = hits.mesh.astype(np.int64) * 256 + hits.part
    order = np.argsort(key, kind="stable")
    points, normals = hits.point[order], hits.normal[order]
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], count], strict=True):
        T, skin = bodies[int(key[begin]) // 256]
        paint = skin.paint(int(key[begin]) % 256)
        R, here = T[:3, :3].astype(np.float32), slice(begin, end)
        local = (points[here] - T[:3, 3].astype(np.float32)) @ R
        color[here], gloss[here] = albedo(paint, local, normals[here] @ R), paint.gloss
        flags[here] = material_flags(paint, skin.transparent, color[here])
    back = np.empty(count, np.int64)
    back[order] = np.arange(count)
    return color[back], gloss[back], flags[back]


def shade_room(scene: Scene, room: Room, hits: Hits, color: np.ndarray, gloss: np.ndarray) -> np.ndarray:
    """Linear radiance (N,3) of surfaces with albedo color (N,3) and gloss (N,)."""
    light = np.repeat((scene.light.sky * (0.65 + 0.35 * hits.normal[:, 2]))[:, None], 3, axis=1)
    shiny = np.flatnonzero(gloss > 0.05)
    normal, view, smooth = hits.normal[shiny], hits.view[shiny], gloss[shiny]
    power = SHININESS[0] + (SHININESS[1] - SHININESS[0]) * smooth
    shine = np.zeros((len(shiny), 3), np.float32)
    for k, lamp in enumerate((scene.light, *room.lamps)):
        towards, tint = lamp.direction.astype(np.float32), (lamp.key * lamp.tint).astype(np.float32)
        lambert = np.clip(hits.normal @ towards, 0, None)
        lambert = lambert * hits.lit if k == 0 else lambert
        light += lambert[:, None] * tint
        half = towards - view
        cosine = np.einsum("ij,ij->i", normal, half) / np.sqrt(np.einsum("ij,ij->i", half, half))
        spot = HIGHLIGHT * smooth**2 * np.exp(power * np.log(np.clip(cosine, 1e-3, 1)))
        shine += (spot * hits.lit[shiny] if k == 0 else spot)[:, None] * tint
    out = color * light
    out[shiny] += shine
    return np.asarray(out)


def seen_through(own: np.ndarray, behind: np.ndarray, hits: Hits) -> np.ndarray:
    """Radiance (N,3) of clear things: what is behind them, less of it at a grazing angle."""
    head_on = np.abs((hits.normal * hits.view).sum(1, keepdims=True))
    share = CLEAR * np.clip(head_on * 1.6, 0, 1)
    return np.asarray(own * (1 - 0.8 * share) + behind * share)


def expose(linear: np.ndarray, room: Room) -> Image:
    """Linear radiance (H,W,3) -> what the room's camera records, (H,W,3) uint8."""
    sigma = room.blur * linear.shape[1] / 640
    if sigma > 0.15:
        linear = cv2.GaussianBlur(linear, (0, 0), sigma)
    told = np.clip(linear * room.gain.astype(np.float32), 0, 1)
    return np.asarray((255 * cv2.pow(told, 1 / 2.2) + 0.5).astype(np.uint8))
