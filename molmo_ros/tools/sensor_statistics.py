"""Errors of real depth images compared with those of the simulated sensors, as a table.

    python -m molmo_ros.tools.sensor_statistics --data DIR --frames 30 --picture sensors.png

DIR holds NAME-color.png, NAME-depth.png (16 bit, mm, aligned, 640 wide) and camera_info.yaml; the simulated
camera gets its intrinsics. Without --data there are simulated sensors only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, Image
from molmo_ros.errors import FrameError
from molmo_ros.io import read_depth
from molmo_ros.perception.camera_info import load_camera_info
from molmo_ros.sim.camera import intrinsics
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.sensors import SENSORS, SensorView, sensed_depth
from molmo_ros.tools.grasp_physics.families import draw_case
from molmo_ros.tools.sensor_tally import Tally
from molmo_ros.tools.stereo_matching import matched_depth

SIZE = (640, 480)
FAMILIES = ("clutter", "spread")
FARTHER_M = (0.1, 0.5)  # than the families' own camera, as the real frames are
MATCHED = "matched"
QUANTILES = (0.1, 0.5, 0.9)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and draw a picture if wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real frames")
    parser.add_argument("--frames", type=int, default=24, help="simulated ones (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene (default 0)")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw simulated depth, a row for a scene")
    args = parser.parse_args(argv)
    K = intrinsics(*SIZE) if args.data is None else load_camera_info(args.data / "camera_info.yaml")[0]
    tallies = {} if args.data is None else {"real": tally(recorded(args.data))}
    tallies |= {name: Tally() for name in (*SENSORS, MATCHED)}
    rows = []
    for rgb, depths in simulated(K, range(args.seed, args.seed + args.frames)):
        for name, depth in depths.items():
            tallies[name].add(depth)
        rows.append((rgb, depths))
    print(table(tallies))
    if args.picture is not None:
        cv2.imwrite(str(args.picture), picture(rows[:: max(1, len(rows) // 4)][:4]))


def tally(depths: Iterable[Depth]) -> Tally:
    """Measure all of them."""
    total = Tally()
    for depth in depths:
        total.add(depth)
    return total


def recorded(folder: Path) -> Iterator[Depth]:
    """Depth (H,W) m of the frames in a folder.

    Raises: FrameError if there are none, or if they are not 640 wide.
    """
    paths = sorted([*folder.glob("*-depth.png"), *folder.glob("*_depth.png")])
    if not paths:
        raise FrameError(f"{folder} has no *-depth.png; give the folder of NAME-color.png, NAME-depth.png.")
    for path in paths:
        depth = read_depth(path)
        if depth.shape[1] != SIZE[0]:
            raise FrameError(f"{path} is {depth.shape[1]} wide; widths are compared at {SIZE[0]}: resize it.")
        yield depth


def simulated(K: Array, seeds: Iterable[int]) -> Iterator[tuple[Image, dict[str, Depth]]]:
    """Colour image (H,W,3) and depth (H,W) m by every sensor, of one scene for each seed."""
    for seed in seeds:
        case = draw_case(FAMILIES[seed % len(FAMILIES)], seed)
        rng = np.random.default_rng([seed, 7])
        T = case.scene.T_world_camera.copy()
        T[:3, 3] -= rng.uniform(*FARTHER_M) * T[:3, 2]
        seen, matched = matched_depth(Renderer(case.scene, 1), K, SIZE, T, rng)
        view = SensorView(seen.depth, seen.rgb, seen.material)
        yield seen.rgb, {**{s: sensed_depth(view, K, s, rng) for s in SENSORS}, MATCHED: matched}


def table(tallies: dict[str, Tally]) -> str:
    """Markdown: a line for each statistic, a column for each sensor."""
    columns = {name: numbers(t) for name, t in tallies.items()}
    first = next(iter(columns.values()))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for key in first:
        lines.append(f"| {key} | " + " | ".join(c[key] for c in columns.values()) + " |")
    return "\n".join(lines)


def numbers(t: Tally) -> dict[str, str]:
    """What a tally says, in words and quantiles."""
    told = {}
    for name, widths in t.widths.items():
        told[f"ramp at jumps of {name}, px"] = _quantiles(widths, 0)
        told[f"jumps of {name} sharp (<= 2 px), %"] = _share(widths, 2)
    told["hole left of near things, px"] = _quantiles(t.left, 0)
    told["near things without hole on the left, %"] = _share(t.left, 0)
    told["hole right of near things, px"] = _quantiles(t.right, 0)
    told["near things without hole on the right, %"] = _share(t.right, 0)
    told["plane: deviation in a patch, mm at 1 m"] = _quantiles(t.local, 1)
    told["plane: offset of a patch, mm at 1 m"] = _quantiles(t.wide, 1)
    told["plane: correlation length, px"] = _quantiles(t.size, 0)
    told["holes, % of the image"] = f"{100 * np.mean(t.holes):.1f}"
    told["holes without the left tenth, %"] = f"{100 * np.mean(t.inner):.1f}"
    return told


def _quantiles(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    return " / ".join(f"{q:.{digits}f}" for q in np.quantile(values, QUANTILES))


def _share(values: Sequence[float], most: float) -> str:
    return f"{100 * np.mean(np.array(values) <= most):.0f}" if values else "-"


def picture(rows: Sequence[tuple[Image, dict[str, Depth]]]) -> Image:
    """Colour and depth of the middle of each scene by every sensor (BGR)."""
    lines = []
    for rgb, depths in rows:
        low, high = np.nanquantile(depths["perfect"][MIDDLE], [0.01, 0.95])
        cells = [rgb[MIDDLE][..., ::-1], *(_colours(d[MIDDLE], low, high) for d in depths.values())]
        lines.append(np.hstack(cells))
    names = np.full((24, lines[0].shape[1], 3), 255, np.uint8)
    wide = lines[0].shape[1] // (len(rows[0][1]) + 1)
    for k, name in enumerate(("", *rows[0][1])):
        cv2.putText(names, name, (k * wide + 6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([names, *lines])


MIDDLE = np.s_[110:370, 190:450]


def _colours(depth: Depth, low: float, high: float) -> Image:
    share = np.clip((depth - low) / (high - low), 0, 1)
    colours: Image = cv2.applyColorMap((255 * np.nan_to_num(1 - share)).astype(np.uint8), cv2.COLORMAP_TURBO)
    colours[~np.isfinite(depth)] = 0
    return colours


if __name__ == "__main__":
    main()
