"""The readable block of a grounding's JSON keys."""

from __future__ import annotations

from typing import Any

from molmo_ros.as_json import grounding_keys as grounding_keys  # asked for here by the sub-commands


def block(result: dict[str, Any]) -> str:
    """Return the readable block of a result with grounding_keys (plain values), and the file written."""
    lines = [_line("query", result["query"]), _line("answer", result["answer"].strip() or "(empty)")]
    if not result["points"]:
        lines.append(_line("found", "nothing"))
    elif not result["targets"]:
        lines += [_line(f"point {p['instance']}", _point_text(p)) for p in result["points"]]
    for number, target in enumerate(result["targets"], start=1):
        lines += _target_lines(number, target)
    lines.append(_line("stages", stages_text(result["stages_ms"])))
    lines += [_line(kind, result[kind]) for kind in ("picture", "recording") if result.get(kind)]
    return "\n".join(lines)


def stages_text(stages_ms: dict[str, float]) -> str:
    """Return the stages with the total last."""
    rest = [f"{name} {ms:.0f}" for name, ms in stages_ms.items() if name != "total"]
    return f"{stages_ms['total']:.0f} ms = {' + '.join(rest)}"


def _line(name: str, value: str) -> str:
    """Return a line; what the model wrote must not reach the terminal as control characters."""
    return f"{name:<10} " + "".join(c if c.isprintable() else "?" for c in value)


def _point_text(point: dict[str, Any]) -> str:
    (xx, _), (_, yy) = point["covariance"]
    where = f"({point['x']:.1f}, {point['y']:.1f})"
    if point["confidence"] is None:
        return f"{point['label'] or 'point'}, pixel {where}, confidence unknown"
    where += f" ± ({xx**0.5:.1f}, {yy**0.5:.1f}) px"
    return f"{point['label'] or 'point'}, pixel {where}, confidence {point['confidence']:.2f}"


def _target_lines(number: int, target: dict[str, Any]) -> list[str]:
    lines = [_line(f"target {number}", _point_text(target["point"]))]
    if target["position"] is not None:
        known = target["covariance"] and target["covariance"][0][0] is not None
        sigma = [1000 * target["covariance"][i][i] ** 0.5 for i in range(3)] if known else []
        spread = " ± (" + ", ".join(f"{s:.1f}" for s in sigma) + ") mm" if sigma else ""
        hole = f", depth from {away:.0f} px beside it" if (away := target["depth_distance"]) else ""
        place = f"{_vector(target['position'])} m{spread} in {target['frame_id']}{hole}"
        lines.append(_line("  position", place))
    if target["grasp"] is None:
        text = ": " + target["status_text"] if target["status_text"] else ""
        lines.append(_line("  status", target["status"] + text))
        return lines
    for name in ("grasp", "pregrasp"):
        pose = target[name]
        where = f"{_vector(pose['position'])} m, quaternion xyzw {_vector(pose['orientation'])}"
        lines.append(_line(f"  {name}", where))
    width, opening = 1000 * target["width"], 1000 * target["opening"]
    fingers = f"open to {opening:.0f} mm, close on {width:.0f} mm, quality {target['quality']:.2f}"
    lines.append(_line("  fingers", fingers))
    return lines


def _vector(values: list[float]) -> str:
    return "(" + ", ".join(f"{v:+.3f}" for v in values) + ")"
