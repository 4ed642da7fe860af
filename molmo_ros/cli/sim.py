"""``molmo-ros sim``: write frames of the simulated camera to disk, with the truth beside them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options
from molmo_ros.cli.output import to_plain
from molmo_ros.errors import FrameError

if TYPE_CHECKING:
    import numpy as np

    from molmo_ros.datatypes import Depth, Image
    from molmo_ros.sim import SimCamera
    from molmo_ros.sim.wild import WildCamera

NAME = "sim"
HELP = "write simulated RGB-D frames to a folder: colour, depth, camera_info, and the truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument(
        "out_dir", type=options.path, metavar="OUT_DIR", help="folder to write to; made if it is not there"
    )
    parser.add_argument(
        "--frames",
        type=options.integer(1, 100_000),
        default=10,
        metavar="N",
        help="scenes, one frame each (default 10)",
    )
    parser.add_argument(
        "--seed",
        type=options.integer(0, 2**31 - 1),
        default=0,
        metavar="S",
        help="seed of the first scene (default 0)",
    )
    parser.add_argument(
        "--width", type=options.integer(64, 4096), default=640, metavar="PX", help="default 640"
    )
    parser.add_argument(
        "--height", type=options.integer(48, 4096), default=480, metavar="PX", help="default 480"
    )
    parser.add_argument(
        "--scenes",
        choices=["table", "wild"],
        default="table",
        help="table: the kinds that the built-in model knows, 50 cm away (default); wild: unseen shapes, "
        "textures, heaps, bins and rooms, from 0.3 to 1.5 m",
    )
    parser.add_argument("--sheet", metavar="PNG", help="write all frames side by side into one picture, too")
    parser.add_argument(
        "--sensor",
        choices=["dropout", "stereo", "structured_light", "tof", "perfect"],
        default="dropout",
        help="that measures depth (default dropout, what the built-in model is used to)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the frames; scene i has the seed S + i."""
    from tqdm import tqdm

    options.check_picture_path(args.sheet)
    folder = Path(args.out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FrameError(f"Cannot make the folder {folder}: {error.strerror}; choose another.") from error
    written, shown = [], []
    for i in tqdm(range(args.frames), unit="frame", file=sys.stderr, disable=None):
        camera = _camera(args, args.seed + i)
        written.append(write_frame(folder, f"{i:06d}", camera))
        frame = camera.frame() if args.sheet else None
        shown += [] if frame is None else [(frame.rgb, frame.depth, camera.truth.ids)]
    if args.sheet:
        _write_sheet(args.sheet, shown)
    return {"folder": str(folder), "camera_info": "camera_info.yaml", "frames": written}


def _camera(args: argparse.Namespace, seed: int) -> SimCamera | WildCamera:
    if args.scenes == "wild":
        from molmo_ros.sim.wild import WildCamera

        return WildCamera(seed, args.width, args.height, sensor=args.sensor)
    from molmo_ros.sim import SimCamera

    return SimCamera(seed, args.width, args.height, sensor=args.sensor)


def _write_sheet(path: str, shown: list[tuple[Image, Depth, np.ndarray]]) -> None:
    from PIL import Image as PilImage

    from molmo_ros import io
    from molmo_ros.draw.frames import frame_sheet

    io.save_picture(PilImage.fromarray(frame_sheet(shown)), path)


def write_frame(folder: Path, stem: str, camera: SimCamera | WildCamera) -> dict[str, str]:
    """Write one frame and its truth; return the names of the files."""
    from molmo_ros import io

    frame, truth = camera.frame(), camera.truth
    names = {
        "color": f"{stem}_color.png",
        "depth": f"{stem}_depth.png",
        "instances": f"{stem}_instances.png",
        "truth": f"{stem}_truth.json",
    }
    io.write_color(folder / names["color"], frame.rgb)
    io.write_depth(folder / names["depth"], frame.depth)
    io.write_ids(folder / names["instances"], truth.ids)
    io.write_camera_info(folder / "camera_info.yaml", frame.K, camera.width, camera.height, frame.frame_id)
    (folder / names["truth"]).write_text(json.dumps(_truth_keys(camera), indent=1) + "\n", encoding="utf-8")
    return names


def _truth_keys(camera: SimCamera | WildCamera) -> dict[str, Any]:
    """Return the truth: an object's id is its value in the instances image; poses are 4x4, metres."""
    truth = camera.truth
    objects = [
        {
            "id": i,
            "name": o.name,
            "kind": o.kind,
            "color": o.color,
            "pixels": int((truth.ids == i).sum()),
            "T_world_object": to_plain(o.T_world_object),
        }
        for i, o in enumerate(truth.objects, start=1)
    ]
    return {"seed": camera.seed, "T_world_camera": to_plain(truth.T_world_camera), "objects": objects}


def text(result: dict[str, Any]) -> str:
    """Return where the frames are."""
    return f"{len(result['frames'])} frames in {result['folder']}"
