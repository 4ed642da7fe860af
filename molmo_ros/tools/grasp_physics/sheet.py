"""A contact sheet of failures: what the camera saw and what was planned, beside the outcome."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from molmo_ros.datatypes import Array, Grasp, Image, ImagePoint, Mask
from molmo_ros.draw.style import INK, PANEL, QUIET, WARN, font, shorten
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.tools.grasp_physics.evaluate import Record, Setting, displaced
from molmo_ros.tools.grasp_physics.families import draw_case
from molmo_ros.tools.grasp_physics.film import film, from_the_side, strip
from molmo_ros.tools.grasp_physics.oracle import find_grasp
from molmo_ros.tools.grasp_physics.plan import plan
from molmo_ros.tools.grasp_physics.view import View, click, look
from molmo_ros.transforms import invert, pose_matrix, transform_points

CELL, CAPTION, COLUMNS, MOST = 260, 46, 3, 24
STRIP = (240, 240)  # px of one picture of a film
TRUE, TAKEN, HAND, WAY = (92, 222, 148), (255, 184, 48), (255, 90, 200), (64, 196, 255)
LEGEND = "green: true outline   amber: as segmented   pink: fingers, blue: way in, of the plan   x: point"


def contact_sheet(records: Sequence[Record], setting: Setting) -> PilImage.Image:
    """Draw the first MOST of the records that were not held, though they could have been, as cells of two."""
    failures = [r for r in records if not r.held and r.feasible is not False][:MOST]
    cells = [_cell(record, setting) for record in failures]
    rows = max((len(cells) + COLUMNS - 1) // COLUMNS, 1)
    width, height = 2 * CELL + 6, CELL + CAPTION
    sheet = PilImage.new("RGB", (COLUMNS * width, rows * height + 24), PANEL)
    text = LEGEND if cells else "No failure."
    ImageDraw.Draw(sheet).text((8, 12), text, font=font(14), fill=QUIET, anchor="lm")
    for k, cell in enumerate(cells):
        sheet.paste(cell, (k % COLUMNS * width, 24 + k // COLUMNS * height))
    return sheet


def held_pictures(records: Sequence[Record], setting: Setting, rows: int = 4) -> PilImage.Image:
    """Draw the first held target of each kind of thing (up to a number of kinds), stage by stage."""
    gripper = Gripper.load(setting.gripper)
    by_kind = {r.kind: r for r in reversed(records) if r.held}
    strips = []
    for record in list(by_kind.values())[::-1][:rows]:
        case = draw_case(record.family, record.seed)
        view = look(case, setting.noise, setting.sensor)
        grasp = plan(view, click(view, setting.jitter_px), gripper, setting.segmenter).grasp
        if grasp is not None:
            strips.append(strip(case.scene, case.target, grasp, gripper, STRIP))
    return PilImage.fromarray(np.concatenate(strips) if strips else np.zeros((*STRIP, 3), np.uint8))


def _cell(record: Record, setting: Setting) -> PilImage.Image:
    gripper = Gripper.load(setting.gripper)
    case = draw_case(record.family, record.seed)
    view = look(case, setting.noise, setting.sensor)
    point = click(view, setting.jitter_px)
    planned = plan(view, point, gripper, setting.segmenter)
    mask = planned.segment.mask if planned.segment is not None else None
    left = _crop(view, point, mask, planned.grasp, gripper)
    right, title = _what_happened(view, planned.grasp, gripper, setting)
    cell = PilImage.new("RGB", (2 * CELL + 6, CELL + CAPTION), PANEL)
    cell.paste(PilImage.fromarray(left), (0, CAPTION))
    cell.paste(PilImage.fromarray(right), (CELL, CAPTION))
    pen = ImageDraw.Draw(cell)
    gap = f"  gap {1000 * record.gap:.0f} mm" if np.isfinite(record.gap) else ""
    name = f"{record.family} {record.seed}: {case.thing.name}{gap}"
    reason = f"lost in {record.outcome.stage}" if record.outcome is not None else record.status
    pen.text((6, 14), shorten(name, 15, CELL - 12), font=font(15), fill=INK, anchor="lm")
    pen.text((6, 34), f"{reason}   IoU {record.iou:.2f}", font=font(13), fill=WARN, anchor="lm")
    pen.text((CELL + 6, 34), shorten(title, 13, CELL - 12), font=font(13), fill=QUIET, anchor="lm")
    return cell


def _what_happened(view: View, grasp: Grasp | None, gripper: Gripper, setting: Setting) -> tuple[Image, str]:
    """The moment after closing, from the side; for a refused target a grasp that would have held."""
    case, size = view.case, (CELL, CELL)
    if grasp is not None:
        real = displaced(grasp, setting.pose_error_m, case.seed)
        outcome, shots = film(case.scene, case.target, real, gripper, setting.friction)
        stage = "close"
        touched = ", had touched a neighbour" if outcome.touched else ""
        return from_the_side(shots[stage], real, case.target, size), f"after closing{touched}"
    real_one = find_grasp(case.scene, case.target, gripper, case.seed, setting.friction)
    if real_one is None:
        return from_the_side(case.scene, None, case.target, size), "brute force finds no grasp either"
    _, shots = film(case.scene, case.target, real_one, gripper, setting.friction)
    return from_the_side(shots["close"], real_one, case.target, size), "a grasp that holds (brute force)"


def _crop(view: View, point: ImagePoint, mask: Mask | None, grasp: Grasp | None, gripper: Gripper) -> Image:
    """The target enlarged, with outlines, the point, and the hand as lines."""
    v, u = np.nonzero(view.mask if mask is None else view.mask | mask)
    half = int(np.clip(0.65 * max(np.ptp(v), np.ptp(u)), 70, 240))
    centre = np.array([(u.min() + u.max()) / 2, (v.min() + v.max()) / 2])
    scale = CELL / (2 * half)
    A = np.array([[scale, 0, CELL / 2 - scale * centre[0]], [0, scale, CELL / 2 - scale * centre[1]]])
    big = cv2.warpAffine(view.frame.rgb, A, (CELL, CELL), flags=cv2.INTER_AREA, borderValue=PANEL)
    image: Image = big.astype(np.uint8)
    for outline, color in ((view.mask, TRUE), (mask, TAKEN)):
        if outline is not None:
            big = cv2.warpAffine(outline.astype(np.uint8), A, (CELL, CELL), flags=cv2.INTER_NEAREST)
            lines, _ = cv2.findContours(big, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, lines, -1, color, 1, cv2.LINE_AA)
    if grasp is not None:
        _draw_hand(image, view, grasp, gripper, A)
    x, y = (A @ [point.x, point.y, 1]).tolist()
    marker = (round(x), round(y))
    cv2.drawMarker(image, marker, (0, 0, 0), cv2.MARKER_TILTED_CROSS, 13, 4)
    cv2.drawMarker(image, marker, (255, 255, 255), cv2.MARKER_TILTED_CROSS, 13, 2)
    return np.asarray(image)


def _draw_hand(image: Image, view: View, grasp: Grasp, gripper: Gripper, A: Array) -> None:
    """Fingers at the opening of the approach, the bar between them, and the approach path."""
    back, out = -gripper.finger_length, grasp.opening / 2
    fingers = [[0, out, 0], [0, out, back], [0, -out, back], [0, -out, 0]]
    hand = np.array([*fingers, [0, 0, back], [0, 0, 2 * back]])
    T = invert(view.case.scene.T_world_camera) @ pose_matrix(grasp.pose)
    camera = transform_points(T, hand.astype(np.float64))
    pixel = camera @ view.frame.K.T
    pixel = np.c_[pixel[:, :2] / pixel[:, 2:], np.ones(len(pixel))] @ A.T
    corners = [(round(x), round(y)) for x, y in pixel.tolist()]
    for a, b, color in ((0, 1, HAND), (1, 2, HAND), (2, 3, HAND), (4, 5, WAY)):
        cv2.line(image, corners[a], corners[b], color, 2, cv2.LINE_AA)
