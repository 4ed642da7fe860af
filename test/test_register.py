"""Depth of another camera: right where the colour camera sees it, nothing where it is hidden from either."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from molmo_ros import io
from molmo_ros.cli import main
from molmo_ros.datatypes import Array, Depth, DepthCamera, ImagePoint, Mask, RgbdFrame
from molmo_ros.errors import FrameError, TransformError
from molmo_ros.perception.depth import DepthOptions
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.rectify import make_lens
from molmo_ros.perception.register import register_depth, registered
from molmo_ros.sim.noise import NoiseModel, noisy_depth
from molmo_ros.sim.render import Render, Renderer
from molmo_ros.sim.scene import Scene
from molmo_ros.transforms import invert, make_transform, quaternion_from_matrix, transform_points

COLOR = (640, 480)


def intrinsics(size: tuple[int, int], hfov_deg: float) -> Array:
    f = size[0] / 2 / np.tan(np.radians(hfov_deg) / 2)
    return np.array([[f, 0, (size[0] - 1) / 2], [0, f, (size[1] - 1) / 2], [0, 0, 1.0]])


def pose(shift: tuple[float, float, float], turn_deg: tuple[float, float, float]) -> Array:
    return make_transform(cv2.Rodrigues(np.radians(turn_deg))[0], np.array(shift))


@lru_cache(maxsize=2)
def scene(seed: int) -> tuple[Scene, Renderer]:
    from molmo_ros.sim.camera import fair_scene

    return fair_scene(np.random.default_rng(seed), 1)


K_COLOR = intrinsics(COLOR, 50)
# size and field of view of the depth camera, where it is, how it is turned
CAMERAS = {
    "beside": ((640, 480), 50, pose((0.05, 0, 0), (0, 0, 0))),
    "coarse": ((424, 240), 70, pose((0.05, 0.01, -0.01), (1, 2, 3))),
    "fine": ((848, 480), 60, pose((-0.015, 0, 0), (0.3, -0.2, 0.1))),
    "far": ((640, 480), 60, pose((0.15, 0.05, 0), (5, -5, 20))),
    "same place": ((320, 240), 60, np.eye(4)),
}


class Pair:
    """What two cameras see of a scene, and what the colour camera sees that the depth camera does not."""

    def __init__(self, camera: str, seed: int, noise: float) -> None:
        size, hfov, self.T = CAMERAS[camera]
        self.K = intrinsics(size, hfov)
        told, renderer = scene(seed)
        T = told.T_world_camera
        self.color: Render = renderer.render(K_COLOR, *COLOR, T)
        clean = renderer.render(self.K, *size, T @ self.T).depth
        self.depth: Depth = noisy_depth(clean, self.K[0, 0], NoiseModel(noise), np.random.default_rng(seed))
        v, u = np.indices(self.color.depth.shape)
        rays = np.stack([u, v, np.ones(u.shape)], axis=-1) @ np.linalg.inv(K_COLOR).T
        there = transform_points(invert(self.T), rays * self.color.depth[..., None])
        pixel = np.rint((there / there[..., 2:] @ self.K.T)[..., :2])
        shown = np.isfinite(pixel).all(-1) & (pixel >= 1).all(-1) & (pixel < np.array(size) - 1).all(-1)
        first = np.full(u.shape, np.nan)
        first[shown] = clean[pixel[shown, 1].astype(int), pixel[shown, 0].astype(int)]
        with np.errstate(invalid="ignore"):
            self.visible: Mask = np.abs(first - there[..., 2]) < 0.01
            self.hidden: Mask = there[..., 2] - first > 0.02
        jump = np.abs(np.diff(self.color.depth, axis=0))[:, :-1] + np.abs(np.diff(self.color.depth))[:-1]
        self.inner = ~binary_dilation(np.pad(~(jump < 0.012), ((0, 1), (0, 1))), np.ones((5, 5)))

    def registered(self) -> Depth:
        return register_depth(self.depth, self.K, self.T, K_COLOR, COLOR)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("camera", CAMERAS)
def test_depth_is_where_the_colour_camera_sees_it(camera: str, noise: float) -> None:
    pair = Pair(camera, 3, noise)
    got = pair.registered()
    error = np.abs(got - pair.color.depth)
    assert got.dtype == np.float32
    assert np.isfinite(got[pair.visible]).mean() > (0.97 if noise else 0.99)
    inside = error[pair.inner & np.isfinite(got)]
    coarse = K_COLOR[0, 0] / pair.K[0, 0] > 1.5
    assert np.median(inside) < (0.0015 if noise else 0.0005), np.median(inside)
    assert np.quantile(inside, 0.99) < (0.008 if coarse else 0.005)
    assert (inside > 0.010).mean() < 0.001  # nothing shows through from behind, no pixel flies


@pytest.mark.parametrize("camera", ["beside", "far"])
def test_what_the_depth_camera_cannot_see_has_no_depth(camera: str) -> None:
    pair = Pair(camera, 3, 1.0)
    got = pair.registered()[pair.hidden]
    wrong = np.abs(got - pair.color.depth[pair.hidden]) > 0.010
    assert len(got) > 1000
    assert np.isnan(got).mean() > 0.98
    assert wrong.mean() < 0.01


def wall_and_pole() -> tuple[Depth, Array]:
    """A wall at 1 m; before it a pole at 0.5 m, 20 px wide; f = 500 px."""
    depth = np.full((120, 160), 1.0, np.float32)
    depth[:, 70:90] = 0.5
    return depth, np.array([[500.0, 0, 79.5], [0, 500.0, 59.5], [0, 0, 1.0]])


def test_numbers_by_hand() -> None:
    """20 mm to the right: the wall moves by 500 * 0.02 / 1 = 10 px, the pole by 20, and it still hides."""
    depth, K = wall_and_pole()
    T = make_transform(np.eye(3), np.array([0.02, 0, 0]))
    row = register_depth(depth, K, T, K, (160, 120))[60]
    assert np.isnan(row[:10]).all()  # beyond the edge of the depth image
    assert (row[10:80] == 1.0).all()
    assert np.isnan(row[80:90]).all()  # behind the pole, seen from the depth camera
    assert (row[90:110] == 0.5).all()
    assert (row[110:160] == 1.0).all()


def test_nothing_shows_through_between_the_pixels_of_what_is_near() -> None:
    """Three times as many colour pixels, and a camera that is turned: neighbours do not stay neighbours."""
    depth, K = wall_and_pole()
    K_fine = np.array([[1500.0, 0, 239.5], [0, 1500.0, 179.5], [0, 0, 1.0]])
    T = make_transform(cv2.Rodrigues(np.radians([0.0, 0.0, 30.0]))[0], np.zeros(3))
    got = register_depth(depth, K, T, K_fine, (480, 360))
    v, u = np.indices(got.shape)
    x, y = u - 239.5, v - 179.5
    # from the middle of the pole, in fine pixels
    across, along = (x * np.cos(a) + y * np.sin(a) for a in (np.pi / 6, np.pi / 6 + np.pi / 2))
    near = (np.abs(across) < 150) & (np.abs(along) < 170)
    assert np.isfinite(got[near]).mean() > 0.999
    assert (got[near & (np.abs(across) < 26)] == 0.5).all()
    assert (got[near & (np.abs(across) > 34)] == 1.0).all()


def test_flying_pixels_are_left_out() -> None:
    depth, K = wall_and_pole()
    rng = np.random.default_rng(0)
    v, u = rng.integers(5, 115, 60), rng.integers(5, 60, 60)
    depth[v, u] = rng.uniform(0.55, 0.9, 60)
    got = register_depth(depth, K, pose((0.01, 0, 0), (0, 0, 0)), K, (160, 120))
    left = got[:, 5:65]
    assert (left[np.isfinite(left)] > 0.99).all()
    assert np.isfinite(left).mean() > 0.99  # single gaps are closed


def test_a_surface_seen_at_a_grazing_angle_is_no_edge() -> None:
    K = np.array([[300.0, 0, 79.5], [0, 300.0, 59.5], [0, 0, 1.0]])
    v = np.arange(120)[:, None] - 59.5
    floor = np.where(v > 8, 300 * 0.3 / np.maximum(v, 1), np.nan).astype(np.float32)  # 0.3 m below the camera
    depth = np.broadcast_to(floor, (120, 160)).copy()
    near = depth < 2.5  # there, its steepest pixels are seen at 7 degrees
    exact = DepthOptions(subpixel_px=0.001, floor_m=1e-4)  # no noise that would excuse a step
    got = register_depth(depth, K, pose((0.03, 0, 0), (0, 0, 0)), K, (160, 120), exact)
    inner = near.copy()
    inner[:, :40] = False
    inner[-1] = False
    assert np.isfinite(got[inner]).mean() > 0.99
    np.testing.assert_allclose(got[inner & np.isfinite(got)], depth[inner & np.isfinite(got)], rtol=0.05)


def test_no_depth_gives_no_depth() -> None:
    _, K = wall_and_pole()
    nothing = np.full((120, 160), np.nan, np.float32)
    assert np.isnan(register_depth(nothing, K, np.eye(4), K, (160, 120))).all()
    behind = make_transform(np.eye(3), np.array([0, 0, -2.0]))  # the colour camera looks away from it
    assert np.isnan(register_depth(wall_and_pole()[0], K, behind, K, (160, 120))).all()


def test_a_transform_that_is_not_rigid_is_refused() -> None:
    depth, K = wall_and_pole()
    with pytest.raises(TransformError, match="not rigid"):
        register_depth(depth, K, np.diag([2.0, 2, 2, 1]), K, (160, 120))


def test_both_images_are_rectified_first() -> None:
    """A raw depth image whose lens distorts, beside a raw colour image whose lens does."""
    size = (640, 480)
    D, K_raw = [-0.25, 0.06, 0.001, 0.0, 0.0], np.array([[520.0, 0, 322.0], [0, 522.0, 236.0], [0, 0, 1]])
    lens = make_lens("plumb_bob", D, K_raw, None, K_COLOR, size)
    points = np.array([[0.2, -0.15, 0.7], [-0.2, 0.12, 0.8], [0.05, 0.15, 0.6]])  # in the colour camera
    T = pose((0.04, 0.0, 0.0), (0, 0, 2))
    v, u = np.mgrid[:480, :640]

    def draw(seen: Array) -> Depth:
        depth = np.full((480, 640), 1.5, np.float32)
        pixels = cv2.projectPoints(seen, np.zeros(3), np.zeros(3), K_raw, np.array(D))[0][:, 0]
        for (x, y), z in zip(pixels, seen[:, 2], strict=True):
            depth[(u - x) ** 2 + (v - y) ** 2 <= 64] = z
        return depth

    rgb = (draw(points) * 100).astype(np.uint8)[..., None].repeat(3, axis=2)
    frame = RgbdFrame(rgb, draw(transform_points(invert(T), points)), K_COLOR, "eye", 7)
    frame = registered(frame, lens, DepthCamera(K_COLOR, T, lens))
    assert (frame.frame_id, frame.stamp_ns, frame.lens) == ("eye", 7, lens)
    for true in points:
        x, y, _ = K_COLOR @ true / true[2]
        assert frame.rgb[round(y), round(x), 0] == pytest.approx(100 * true[2], abs=2)
        found = lift_point(frame, ImagePoint(float(x), float(y), "disc"))
        assert np.linalg.norm(found.position - true) < 0.004


class Files:
    """Colour and depth of two cameras on disk, and how to ask the command about them."""

    def __init__(self, folder: Path, camera: str) -> None:
        self.pair, self._folder = Pair(camera, 3, 1.0), folder
        io.write_color(folder / "color.png", self.pair.color.rgb)
        io.write_depth(folder / "depth.png", self.pair.depth)
        self.info(K_COLOR, COLOR, "color")
        self.info(self.pair.K, CAMERAS[camera][0], "depth")

    def info(self, K: Array, size: tuple[int, int], name: str, frame_id: str = "") -> None:
        io.write_camera_info(self._folder / f"{name}.yaml", K, *size, frame_id or name)

    @property
    def paths(self) -> list[Path]:
        return [self._folder / name for name in ("color.png", "depth.png", "color.yaml", "depth.yaml")]

    def command(self, *more: str) -> list[str]:
        color, depth, info, depth_info = map(str, self.paths)
        given = ["--depth", depth, "--camera-info", info, "--depth-camera-info", depth_info]
        return ["ground", color, "the bowl", *given, *more, "--json"]


def test_files_of_two_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path, "coarse")
    frame = io.read_frame(*files.paths, files.pair.T)
    error = np.abs(frame.depth - files.pair.color.depth)
    assert np.median(error[np.isfinite(error)]) < 0.002
    x, y, z, *xyzw = (*files.pair.T[:3, 3], *quaternion_from_matrix(files.pair.T[:3, :3]))
    assert main(files.command("--depth-pose", *map(str, (x, y, z, *xyzw)))) == 0
    targets = json.loads(capsys.readouterr().out)["targets"]
    assert targets
    for target in targets:
        u, v = round(target["point"]["x"]), round(target["point"]["y"])
        true = files.pair.color.depth[v, u] * (np.linalg.inv(K_COLOR) @ [u, v, 1.0])
        assert np.linalg.norm(target["position"] - true) < 0.006


def test_files_of_one_camera_at_two_sizes(tmp_path: Path) -> None:
    files = Files(tmp_path, "same place")
    files.info(files.pair.K, (320, 240), "depth", "color")
    error = np.abs(io.read_frame(*files.paths).depth - files.pair.color.depth)
    assert np.median(error[np.isfinite(error)]) < 0.002


def test_files_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mistake(command: list[str]) -> str:
        assert main(command) == 2
        return capsys.readouterr().err

    files = Files(tmp_path, "coarse")
    command = files.command()
    text = mistake(command)
    assert "'depth'" in text and "'color'" in text and "--depth-pose" in text
    at = command.index("--depth-camera-info")
    text = mistake(command[:at] + command[at + 2 :])
    assert "424x240" in text and "640x480" in text and "--depth-camera-info" in text
    assert "--depth-camera-info" in mistake([*command[:at], "--depth-pose", *"0000001", "--json"])
    assert "no rotation" in mistake([*command, "--depth-pose", *"0000000"])
    files.info(files.pair.K, (640, 480), "depth")
    assert "640x480" in mistake(command)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_recording_of_two_cameras(storage: str, tmp_path: Path) -> None:
    """camera_info beside the depth and /tf_static come from the recording; without them it is refused."""
    pytest.importorskip("rosbags", reason='rosbags is not installed: pip install ".[bag]"')
    from bags import INFO, TF, Entry, Recorder

    from molmo_ros.recording.bag import open_bag

    pair, recorder, at = Pair("coarse", 3, 1.0), Recorder(), 1_700_000_000_000_000_000
    frame = RgbdFrame(pair.color.rgb, pair.depth, K_COLOR)
    deep = RgbdFrame(pair.color.rgb, pair.depth, pair.K)
    entries = []
    for entry in recorder.camera([(at + i * 100_000_000, frame) for i in range(3)]):
        entry.msg.header.frame_id = "depth" if "depth" in entry.topic else "color"
        if entry.topic.endswith("camera_info"):
            entry.msg.width, entry.msg.height = COLOR
        entries.append(entry)
    info = Entry(at, "/cam/depth/camera_info", INFO, recorder.info(deep, at))
    x, y, z, *xyzw = (*pair.T[:3, 3], *quaternion_from_matrix(pair.T[:3, :3]))
    tf = Entry(at + 1, "/tf_static", TF, recorder.transform("color", "depth", (x, y, z), xyzw, at))
    with open_bag(recorder.write(tmp_path / "all", [*entries, info, tf], storage)) as bag:
        topics = bag.find_topics()
        assert topics.depth_camera_info == "/cam/depth/camera_info"
        frames = [found for _, found in bag.frames(topics, 0.02)]
    assert len(frames) == 3
    for found in frames:
        assert isinstance(found, RgbdFrame)
        error = np.abs(found.depth - pair.color.depth)
        assert np.median(error[np.isfinite(error)]) < 0.002
    for name, left, word in (("tf", [info], "does not connect"), ("info", [tf], "/cam/depth/camera_info")):
        with open_bag(recorder.write(tmp_path / name, [*entries, *left], storage)) as bag:
            refused = [found for _, found in bag.frames(bag.find_topics(), 0.02)]
        assert len(refused) == 3
        for error_ in refused:
            assert isinstance(error_, FrameError)
            for part in (word, "424x240", "640x480", "'depth'", "'color'"):
                assert part in str(error_)
