"""How robust the planner is when something is worse than nominal: one thing at a time, on the same
targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from molmo_ros.sim.sensors import DROPOUT, SENSORS
from molmo_ros.tools.grasp_physics.evaluate import Record, Setting, run_all
from molmo_ros.tools.grasp_physics.report import success

FRICTIONS = (0.3, 0.5, 0.8)
POSE_ERRORS_MM = (0, 4, 8)
JITTERS_PX = (0, 4, 12)
NOISES = (0, 1, 2)
TITLES = {
    "friction": "friction of the pads",
    "pose_error_mm": "error of the robot, mm per axis",
    "jitter_px": "error of the point, px per axis",
    "noise": "noise of the dropout sensor",
    "sensor": "depth sensor",
}


def settings(base: Setting) -> dict[str, dict[float | str, Setting]]:
    """What is swept, by name and value."""
    return {
        "friction": {mu: replace(base, friction=mu) for mu in FRICTIONS},
        "pose_error_mm": {mm: replace(base, pose_error_m=mm / 1000) for mm in POSE_ERRORS_MM},
        "jitter_px": {px: replace(base, jitter_px=px) for px in JITTERS_PX},
        "noise": {
            scale: replace(base, sensor=DROPOUT, noise=None if scale == 1 else scale) for scale in NOISES
        },
        "sensor": {name: replace(base, sensor=name, noise=None) for name in SENSORS},
    }


def sweep(
    families: Sequence[str],
    seeds: Sequence[int],
    base: Setting,
    jobs: int,
    done: Callable[[Record], None] | None = None,
) -> dict[str, Any]:
    """Run each different setting once; return success by what is swept, family and value."""
    table = settings(base)
    different = list(dict.fromkeys(s for values in table.values() for s in values.values()))
    work = [(f, seed, s) for s in different for f in families for seed in seeds]
    records = run_all(work, jobs, done)
    by = {key: [] for key in ((f, s) for f in families for s in different)}  # type: ignore[var-annotated]
    for (family, _, setting), record in zip(work, records, strict=True):
        by[family, setting].append(record)
    return {
        name: {f: {str(v): success(by[f, s]) for v, s in values.items()} for f in families}
        for name, values in table.items()
    }


def count(base: Setting) -> int:
    """How many different settings a sweep runs."""
    return len({s for values in settings(base).values() for s in values.values()})


def sweep_table(result: dict[str, Any]) -> str:
    """Success in % with its 95 % interval, a line for each value."""
    families = list(next(iter(result.values())))
    lines = [f"{'':<36}" + "".join(f"{f:>22}" for f in families)]
    for name, by_family in result.items():
        lines.append(TITLES[name])
        for value in by_family[families[0]]:
            cells = [by_family[f][value] for f in families]
            lines.append(f"{value:>34}  " + "".join(f"{_cell(c):>22}" for c in cells))
    return "\n".join(lines)


def _cell(c: dict[str, Any]) -> str:
    low, high = c["interval"]
    return f"{100 * c['success']:.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw the sweep, one panel for each thing that is changed. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(result), figsize=(14, 3.2), sharey=True)
    for axis, (name, by_family) in zip(axes, result.items(), strict=True):
        for family, cells in by_family.items():
            x = range(len(cells)) if name == "sensor" else [float(v) for v in cells]
            y = [100 * c["success"] for c in cells.values()]
            low = [100 * (c["success"] - c["interval"][0]) for c in cells.values()]
            high = [100 * (c["interval"][1] - c["success"]) for c in cells.values()]
            line = "" if name == "sensor" else "-"
            axis.errorbar(x, y, yerr=[low, high], marker="o", ls=line, capsize=3, label=family)
        axis.set_xlabel(TITLES[name])
        axis.set_xticks(x)
        if name == "sensor":
            axis.set_xticklabels([v.replace("_", "\n") for v in cells], fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held, % of targets")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
