"""One picture of one answer: what the camera saw, where the hand goes, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from molmo_ros.datatypes import Array, GraspTarget, Grounding, RgbdFrame, TargetStatus
from molmo_ros.draw.annotate import annotate
from molmo_ros.draw.style import INK, PANEL, QUIET, WARN, Color, accent, font, shorten, text_width
from molmo_ros.draw.view3d import view3d
from molmo_ros.grasp.gripper import Gripper

MIN_HEIGHT = 480  # small camera images are enlarged to this, so that the caption stays readable


def picture(
    frame: RgbdFrame,
    grounding: Grounding,
    gripper: Gripper | None = None,
    *,
    T_target_camera: Array | None = None,
) -> PilImage.Image:
    """Return the annotated image beside the 3D view, over a caption bar.

    Args: as of view3d; grounding, what Grounder.grasp or Grounder.locate returned for frame.
    """
    found = grounding.targets or grounding.answer.points
    title = "" if found else grounding.query  # the caption has the query already
    left = _enlarged(annotate(frame.rgb, found, title))
    size = (round(left.height * 4 / 3), left.height)
    right = view3d(frame, grounding.targets, gripper, size=size, T_target_camera=T_target_camera)
    gap, bar = max(left.height // 160, 2), round(0.135 * left.height)
    whole = PilImage.new("RGB", (left.width + gap + size[0], left.height + bar), PANEL)
    whole.paste(left, (0, 0))
    whole.paste(PilImage.fromarray(right), (left.width + gap, 0))
    _caption(whole, left.height, grounding)
    return whole


def _enlarged(rgb: np.ndarray) -> PilImage.Image:
    image = PilImage.fromarray(rgb)
    if image.height >= MIN_HEIGHT:
        return image
    scale = MIN_HEIGHT / image.height
    return image.resize((round(image.width * scale), MIN_HEIGHT), PilImage.Resampling.LANCZOS)


def _caption(whole: PilImage.Image, top: int, grounding: Grounding) -> None:
    """Write the query and the raw answer on the left, the numbers as columns on the right."""
    pen = ImageDraw.Draw(whole)
    bar = whole.height - top
    big, small, pad = round(0.31 * bar), round(0.225 * bar), round(0.28 * bar)
    upper, lower = top + 0.34 * bar, top + 0.70 * bar
    x: float = whole.width - pad
    for name, value, color in reversed(_facts(grounding)):
        width = max(text_width(value, big), text_width(name, small))
        x -= width
        pen.text((x, upper), value, font=font(big), fill=color, anchor="lm")
        pen.text((x, lower), name, font=font(small), fill=QUIET, anchor="lm")
        x -= 1.1 * pad
    room = max(x - 1.6 * pad, 0)
    pen.rectangle(
        (0, top, max(round(0.05 * bar), 2), whole.height), fill=accent(0) if grounding.targets else WARN
    )
    pen.text((pad, upper), shorten(f"“{grounding.query}”", big, room), font=font(big), fill=INK, anchor="lm")
    answer = shorten(grounding.answer.text or "(empty answer)", small, room)
    pen.text((pad, lower), answer, font=font(small), fill=QUIET, anchor="lm")


def _facts(grounding: Grounding) -> list[tuple[str, str, Color]]:
    """Return the columns: name, value, colour."""
    facts: list[tuple[str, str, Color]] = []
    best = _best(grounding.targets)
    if best is None:
        facts.append(("found", "nothing", WARN))
    else:
        if best.position is not None:
            where = "  ".join(f"{v:+.3f}" for v in best.position)
            which = f"best of {len(grounding.targets)}: " if len(grounding.targets) > 1 else ""
            facts.append((f"{which}position in {best.frame_id}, m", where, INK))
        if best.grasp is not None:
            facts.append(("width", f"{1000 * best.grasp.width:.0f} mm", INK))
            facts.append(("quality", f"{best.grasp.quality:.2f}", accent(0)))
        elif best.status is not TargetStatus.OK:
            facts.append(("status", best.status.name.lower().replace("_", " "), WARN))
    if grounding.stages_ms:
        total = grounding.stages_ms.get("total", sum(grounding.stages_ms.values()))
        facts.append(("total", f"{total:.0f} ms", INK))
    return facts


def _best(targets: Sequence[GraspTarget]) -> GraspTarget | None:
    return next((t for t in targets if t.grasp is not None), targets[0] if targets else None)
