"""A contact sheet of targets: mask, point and hand in the image, the hand from the side, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from molmo_ros.datatypes import Array, Grasp, Image, RgbdFrame, TargetStatus
from molmo_ros.draw.solids import BOX_EDGES, box_corners
from molmo_ros.draw.style import INK, PANEL, QUIET, WARN, Color, font, shorten, text_width
from molmo_ros.draw.view3d import view3d
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.tools.objects.evaluate import Result
from molmo_ros.transforms import pose_matrix, transform_points

CELL, CAPTION, COLUMNS = 300, 84, 3
TRUE, TAKEN, WAY = (92, 222, 148), (255, 184, 48), (64, 140, 255)
OPEN, CLOSED = (255, 90, 200), (64, 255, 255)
LEGEND = (
    "amber: segment   green: truth     pink: hand, open   cyan: where the fingers close   blue: way in   "
    "x: point   right: from the side"
)


def contact_sheet(seen: Sequence[tuple[RgbdFrame, Result]], gripper: Gripper) -> PilImage.Image:
    """Draw every result as a cell of two pictures under its numbers."""
    cells = [_cell(frame, result, gripper) for frame, result in seen]
    rows = max(-(-len(cells) // COLUMNS), 1)
    width, height = 2 * CELL + 6, CELL + CAPTION
    sheet = PilImage.new("RGB", (COLUMNS * width, rows * height + 24), PANEL)
    ImageDraw.Draw(sheet).text((8, 12), LEGEND, font=font(14), fill=QUIET, anchor="lm")
    for k, cell in enumerate(cells):
        sheet.paste(cell, (k % COLUMNS * width, 24 + k // COLUMNS * height))
    return sheet


def _cell(frame: RgbdFrame, result: Result, gripper: Gripper) -> PilImage.Image:
    target, grasp = result.target, result.target.grasp
    cell = PilImage.new("RGB", (2 * CELL + 6, CELL + CAPTION), PANEL)
    cell.paste(PilImage.fromarray(_crop(frame, result, gripper)), (0, CAPTION))
    side = view3d(frame, [target], gripper, size=(CELL, CELL))
    cell.paste(PilImage.fromarray(side), (CELL, CAPTION))
    pen = ImageDraw.Draw(cell)
    good = target.status is TargetStatus.OK
    title = f"{result.frame} {result.label.name}: {target.status.name}"
    numbers = "" if target.box is None else f"segment {1000 * result.length:.0f} mm"
    if np.isfinite(result.iou):
        numbers += f"   IoU {result.iou:.2f}"
    if grasp is not None:
        numbers += (
            f"   quality {grasp.quality:.2f}   open {1000 * grasp.opening:.0f}, close on "
            f"{1000 * grasp.width:.0f} mm   {1000 * result.distance:.0f} mm from the point"
        )
    if result.label.refuse:
        title += "   (refusal expected)"
    title, numbers = shorten(title, 15, 2 * CELL - 12), shorten(numbers, 13, 2 * CELL - 12)
    pen.text((6, 12), title, font=font(15), fill=INK if good else WARN, anchor="lm")
    pen.text((6, 31), numbers, font=font(13), fill=QUIET, anchor="lm")
    for k, line in enumerate(_lines(target.status_text, 12, 2 * CELL - 12)[:3]):
        pen.text((6, 46 + 14 * k), line, font=font(12), fill=QUIET, anchor="lm")
    return cell


def _lines(text: str, size: int, width: float) -> list[str]:
    """Break a text into lines of at most width px."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _crop(frame: RgbdFrame, result: Result, gripper: Gripper) -> Image:
    """The surroundings of the point, enlarged, with outlines, the point and the hand."""
    label, segment, grasp = result.label, result.target.segment, result.target.grasp
    A = _zoom(frame, result)
    big = cv2.warpAffine(frame.rgb, A, (CELL, CELL), flags=cv2.INTER_LINEAR, borderValue=PANEL)
    image: Image = big.astype(np.uint8)
    mask = None if segment is None else segment.mask
    for outline, color in ((label.mask, TRUE), (mask, TAKEN)):
        if outline is not None:
            big = cv2.warpAffine(outline.astype(np.uint8), A, (CELL, CELL), flags=cv2.INTER_NEAREST)
            lines, _ = cv2.findContours(big, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, lines, -1, color, 1, cv2.LINE_AA)
    if grasp is not None:
        _draw_hand(image, frame, grasp, gripper, A)
    x, y = (A @ [label.x, label.y, 1]).tolist()
    marker = (round(x), round(y))
    cv2.drawMarker(image, marker, (0, 0, 0), cv2.MARKER_TILTED_CROSS, 13, 4)
    cv2.drawMarker(image, marker, (255, 255, 255), cv2.MARKER_TILTED_CROSS, 13, 2)
    return np.asarray(image)


def _zoom(frame: RgbdFrame, result: Result) -> Array:
    """Return the affine map (2,3) that fits the segment, the point and the grasp into a cell."""
    label, segment, grasp = result.label, result.target.segment, result.target.grasp
    spots = [[label.x, label.y]]
    if segment is not None:
        v, u = np.nonzero(segment.mask)
        spots += [[u.min(), v.min()], [u.max(), v.max()]]
    if grasp is not None:
        spots.append(_pixels(frame, grasp.pose.position[None])[0].tolist())
    low, high = np.min(spots, axis=0), np.max(spots, axis=0)
    half = float(np.clip(0.65 * (high - low).max(), 60, 320))
    scale, centre = CELL / (2 * half), (low + high) / 2
    return np.array([[scale, 0, CELL / 2 - scale * centre[0]], [0, scale, CELL / 2 - scale * centre[1]]])


def _draw_hand(image: Image, frame: RgbdFrame, grasp: Grasp, gripper: Gripper, A: Array) -> None:
    """Fingers and palm as boxes at the opening of the approach, the faces where they close, and the approach
    path."""
    x, y, z = gripper.palm
    length = gripper.finger_length
    palm = box_corners(np.array([x, y, z])) - [0, 0, length + z / 2]
    _draw_box(image, frame, grasp, palm, A, OPEN)
    for side in (-1.0, 1.0):
        size = np.array([gripper.finger_width, gripper.finger_thickness, length])
        middle = np.array([0.0, side * (grasp.opening + gripper.finger_thickness) / 2, -length / 2])
        _draw_box(image, frame, grasp, box_corners(size) + middle, A, OPEN)
        pad = box_corners(np.array([gripper.finger_width, 0.0, gripper.pad_length]))
        face = np.array([0.0, side * grasp.width / 2, -gripper.pad_length / 2])
        _draw_box(image, frame, grasp, pad + face, A, CLOSED)
    way = np.array([[0.0, 0, -length], [0.0, 0, -length - z - 0.05]])
    _draw_lines(image, frame, grasp, way, [(0, 1)], A, WAY)


def _draw_box(image: Image, frame: RgbdFrame, grasp: Grasp, corners: Array, A: Array, color: Color) -> None:
    edges = [(int(a), int(b)) for a, b in BOX_EDGES]
    _draw_lines(image, frame, grasp, corners, edges, A, color)


def _draw_lines(
    image: Image,
    frame: RgbdFrame,
    grasp: Grasp,
    points: Array,
    pairs: Sequence[tuple[int, int]],
    A: Array,
    color: Color,
) -> None:
    """Draw lines between points (N,3) m of the grasp's frame."""
    camera = transform_points(pose_matrix(grasp.pose), points)
    if camera[:, 2].min() < 0.02:  # behind the camera
        return
    pixel = np.c_[_pixels(frame, camera), np.ones(len(camera))] @ A.T
    at = [(round(x), round(y)) for x, y in np.clip(pixel, -4000, 4000).tolist()]
    for a, b in pairs:
        cv2.line(image, at[a], at[b], color, 1, cv2.LINE_AA)


def _pixels(frame: RgbdFrame, camera: Array) -> Array:
    """Project points (N,3) m of the optical frame to pixels (N,2)."""
    pixel = camera @ frame.K.T
    return np.asarray(pixel[:, :2] / pixel[:, 2:])
