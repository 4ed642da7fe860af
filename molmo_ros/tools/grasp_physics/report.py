"""Records to rows of numbers, and rows to a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from molmo_ros.tools.grasp_physics.case import INFEASIBLE
from molmo_ros.tools.grasp_physics.evaluate import CONTROLS, NOT_UNIQUE, Record
from molmo_ros.tools.grasp_physics.statistics import mcnemar, wilson

DEPTH_WRONG_M = 0.010
GAPS_M = ((0.0, 0.002), (0.002, 0.006), (0.006, 0.02), (0.02, 0.06))


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Numbers of each family, of each kind of thing, and of the refusals."""
    families = list(dict.fromkeys(r.family for r in records))
    kinds = sorted({(r.family, r.kind) for r in records if r.family != INFEASIBLE})
    result: dict[str, Any] = {
        "families": {f: row([r for r in records if r.family == f]) for f in families if f != INFEASIBLE},
        "kinds": {
            f"{family}/{kind}": success([r for r in records if (r.family, r.kind) == (family, kind)])
            for family, kind in kinds
        },
    }
    if any(np.isfinite(r.gap) for r in records):
        result["gaps"] = by_gap([r for r in records if r.family != INFEASIBLE])
    judged = [r for r in records if r.family == INFEASIBLE]
    if judged:
        result["refusals"] = refusals(judged)
    return result


def by_gap(records: Sequence[Record]) -> dict[str, Any]:
    """Success and the segment's IoU by the distance to the nearest other thing."""
    result = {}
    for low, high in GAPS_M:
        part = [r for r in records if low <= r.gap < high]
        if part:
            ious = [r.iou for r in part]
            told = {"iou_mean": _mean(ious), "iou_p10": _quantile(ious, 0.1)}
            result[f"{1000 * low:.0f}-{1000 * high:.0f} mm"] = {**success(part), **told}
    return result


def sound(records: Sequence[Record]) -> list[Record]:
    """Without the trials in which things moved by themselves, and without targets that no words identify."""
    known = [r for r in records if r.status != NOT_UNIQUE]
    return [r for r in known if r.outcome is None or not r.outcome.restless]


def success(records: Sequence[Record]) -> dict[str, Any]:
    """How many targets were held."""
    records = sound(records)
    held = sum(r.held for r in records)
    return {
        "targets": len(records),
        "held": held,
        "success": held / max(len(records), 1),
        "interval": wilson(held, len(records)),
    }


def row(records: Sequence[Record]) -> dict[str, Any]:
    """All that is known of one family."""
    unsound = len(records) - len(sound(records))
    records = sound(records)
    attempts = [r for r in records if r.outcome is not None]
    outcomes = [r.outcome for r in attempts if r.outcome is not None]
    numbers: dict[str, Any] = {
        **success(records),
        "restless": unsound,
        "point_on_target": _mean([r.on_target for r in records]),
        "attempts": len(attempts),
        "success_per_attempt": _mean([r.held for r in attempts]),
        "on_another_thing": sum(r.on_another for r in attempts),
        "touched_before_closing": _mean([bool(o.touched) for o in outcomes]),
        "met_table": _mean([o.on_table for o in outcomes]),
        "met_target": _mean([o.on_target for o in outcomes]),
        "statuses": dict(Counter(r.status for r in records)),
        "lost_in": dict(Counter(o.stage for o in outcomes if o.stage)),
        "iou_mean": _mean([r.iou for r in records]),
        "iou_p10": _quantile([r.iou for r in records], 0.1),
        "covered_90": _mean([r.covered for r in records if r.covered is not None]),
        "depth_wrong": _mean([r.depth_error > DEPTH_WRONG_M for r in records if np.isfinite(r.depth_error)]),
        "cpu_ms_p50": _quantile([r.cpu_ms for r in records], 0.5),
        "cpu_ms_p95": _quantile([r.cpu_ms for r in records], 0.95),
        "quality_held": _mean([r.quality for r in attempts if r.held]),
        "quality_lost": _mean([r.quality for r in attempts if not r.held]),
    }
    if any(r.feasible is not None for r in records):
        numbers["refusals"] = refusals(records)
    if records and records[0].controls:
        numbers["controls"] = {name: _control(records, name) for name in CONTROLS}
    return numbers


def refusals(records: Sequence[Record]) -> dict[str, Any]:
    """Refused targets against those that cannot be grasped, by construction or by brute force."""
    refused = np.array([r.outcome is None for r in records])
    cannot = np.array([r.feasible is False for r in records])
    right = int(np.sum(refused & cannot))
    return {
        "targets": len(records),
        "infeasible": int(cannot.sum()),
        "precision": _mean([not r.feasible for r in records if r.outcome is None]),
        "precision_interval": wilson(right, int(refused.sum())),
        "recall": _mean([r.outcome is None for r in records if r.feasible is False]),
        "recall_interval": wilson(right, int(cannot.sum())),
        "held_of_feasible": _mean([r.held for r in records if r.feasible]),
        "recall_by_variant": {
            v: _mean([r.outcome is None for r in records if r.variant == v and not r.feasible])
            for v in dict.fromkeys(r.variant for r in records if r.variant)
        },
        "lifted_though_infeasible": [r.seed for r in records if r.held and r.feasible is False],
    }


def _control(records: Sequence[Record], name: str) -> dict[str, float]:
    ours = np.array([r.held for r in records])
    theirs = np.array([r.controls[name] for r in records])
    return {"success": float(theirs.mean()), "mcnemar_p": mcnemar(ours, theirs)}


def _mean(values: Sequence[float | bool | None]) -> float:
    known = [float(v) for v in values if v is not None and np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _quantile(values: Sequence[float], q: float) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.quantile(known, q)) if known else float("nan")


def table(result: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    if result["families"]:
        lines.append(
            f"{'':<12}{'held':>9}{'success %':>11}{'[95 %]':>10}{'/attempt':>10}{'touched':>9}{'IoU':>7}"
            f"{'cover':>7}{'ms p50':>8}{'p95':>6}   refused"
        )
    for name, r in result["families"].items():
        low, high = r["interval"]
        refused = ", ".join(f"{s} {n}" for s, n in sorted(r["statuses"].items()) if s != "OK")
        lines.append(
            f"{name:<12}{r['held']:>5}/{r['targets']:<4}{_percent(r['success']):>9}"
            f"{f'[{100 * low:.0f}, {100 * high:.0f}]':>12}{_percent(r['success_per_attempt']):>10}"
            f"{_percent(r['touched_before_closing']):>9}{_two(r['iou_mean']):>7}"
            f"{_percent(r['covered_90']):>7}{r['cpu_ms_p50'] or 0:>8.0f}{r['cpu_ms_p95'] or 0:>6.0f}"
            f"   {refused}"
        )
        if "refusals" in r:
            lines.append("  " + _refusals_text(r["refusals"]))
        for control, c in r.get("controls", {}).items():
            lines.append(
                f"  {control:<15}{'':>3}{_percent(c['success']):>9}   (differs by chance: p = "
                f"{c['mcnemar_p']:.2g})"
            )
    if "refusals" in result:
        lines.append(_refusals_text(result["refusals"]))
    rows = result["families"].values()
    wrong, tried = sum(r["on_another_thing"] for r in rows), sum(r["attempts"] for r in rows)
    lines.append(f"on another thing than the one pointed at: {wrong} of {tried} grasps")
    for name, g in result.get("gaps", {}).items():
        held, ious = f"held {g['held']}/{g['targets']}", f"{_two(g['iou_mean'])} / {_two(g['iou_p10'])}"
        lines.append(f"gap {name:>9}: {held}, IoU mean / 10th percentile {ious}")
    if "quality" in result:
        q = result["quality"]
        bins = "  ".join(f"{b['quality']:.2f}: {_percent(b['held'])}" for b in q["bins"])
        lines.append(f"quality against % held: {bins}   (ECE {_two(q['ece'])}, AUC {_two(q['auc'])})")
        floors = "  ".join(f"{f['quality']}: {f['sent']}, {_percent(f['held'])}" for f in q["floors"])
        lines.append(f"with this quality or more, sent and % held: {floors}")
    lines.append("")
    by_kind = [f"{name} {k['held']}/{k['targets']}" for name, k in result["kinds"].items()]
    lines += ["  ".join(by_kind[i : i + 6]) for i in range(0, len(by_kind), 6)]
    return "\n".join(lines)


def _refusals_text(r: dict[str, Any]) -> str:
    by = ", ".join(f"{name} {_percent(share)}" for name, share in r["recall_by_variant"].items()) or "all"
    return (
        f"refusals: precision {_percent(r['precision'])} %, recall {_percent(r['recall'])} % of "
        f"{r['infeasible']} infeasible of {r['targets']} targets ({by}); held of the feasible "
        f"{_percent(r['held_of_feasible'])} %"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None or not np.isfinite(share) else f"{100 * share:.1f}"


def _two(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.2f}"
