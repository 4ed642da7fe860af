"""The mask network in training: crops as at run time, losses that fall, an export that says the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from molmo_ros.datatypes import RgbdFrame  # noqa: E402
from molmo_ros.perception.learned_mask import CROP, MaskNetwork, crop_around  # noqa: E402
from molmo_ros.sim import SimCamera  # noqa: E402
from molmo_ros.tools.segmenter.data import Frames, draw_points, joined, table_plane  # noqa: E402
from molmo_ros.tools.segmenter.export import export  # noqa: E402
from molmo_ros.tools.segmenter.model import MaskNet  # noqa: E402
from molmo_ros.tools.segmenter.samples import Samples  # noqa: E402
from molmo_ros.tools.segmenter.train import Training, loss_of  # noqa: E402

CPU = torch.device("cpu")


def _frames(seed: int) -> tuple[Frames, RgbdFrame]:
    camera = SimCamera(seed, 320, 240, threads=1)
    frame, truth = camera.frame(), camera.truth
    depth = np.nan_to_num(frame.depth)
    return Frames(
        rgb=frame.rgb[None],
        depth=np.round(1000 * depth).astype(np.int16)[None],
        ids=truth.ids[None],
        camera=camera.K[[0, 1, 0, 1], [0, 1, 2, 2]].astype(np.float32)[None],
        plane=table_plane(truth.T_world_camera)[None],
        points=draw_points(truth.ids, depth, truth.depth, np.random.default_rng(seed)),
    ), replace(frame, depth=np.where(depth > 0, np.round(1000 * depth) / 1000, np.nan).astype(np.float32))


@pytest.fixture(scope="module")
def scenes() -> Frames:
    return joined([_frames(seed)[0] for seed in range(3, 7)])


def test_a_training_crop_is_the_crop_of_the_run_time() -> None:
    frames, frame = _frames(3)
    samples = Samples(frames, CPU)
    inputs, targets = samples.cut(samples.on[:4], torch.Generator(), augment=False)
    for k, (_, u, v, thing, mm) in enumerate(samples.on[:4].tolist()):
        crop = crop_around(frame, u, v, mm / 1000)
        assert np.abs(inputs.rgb[k].numpy() - crop.rgb).max() <= 8  # OpenCV interpolates in steps of 1/32 px
        assert np.mean(inputs.depth[k].numpy() != crop.depth) < 0.01  # rounding at .5
        assert np.allclose(inputs.rays[k], crop.rays, atol=1e-5)
        assert frames.ids[0, v, u] == thing
        assert targets.masks[k, 0, CROP // 2, CROP // 2] == 1


def test_points_lie_on_their_things_and_beside_all(scenes: Frames) -> None:
    scene, u, v, thing, mm = scenes.points.T
    assert np.array_equal(scenes.ids[scene, v, u], thing)
    assert (mm > 300).all() and (mm < 2000).all()
    assert (thing == 0).sum() > 3


def test_a_few_steps_lower_the_loss_and_can_be_resumed(scenes: Frames, tmp_path: Path) -> None:
    samples, generator = Samples(scenes, CPU), torch.Generator().manual_seed(1)
    training = Training(tmp_path, CPU, lr=0.05)
    inputs, targets = samples.batch(4, generator)
    before = loss_of(training.net, inputs, targets)[0].item()
    for _ in range(6):
        training.update(inputs, targets, share_done=0.0)
    training.save()
    again = Training(tmp_path, CPU, lr=0.05)
    assert again.step == 6
    for a, b in zip(training.net.state_dict().values(), again.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert loss_of(training.net, inputs, targets)[0].item() < 0.9 * before


def test_the_exported_network_says_what_the_trained_one_says(scenes: Frames, tmp_path: Path) -> None:
    Training(tmp_path, CPU, lr=1e-3).save()
    path = export(tmp_path, tmp_path / "mask.onnx")
    assert path.stat().st_size < 8_000_000
    net = MaskNet()
    from safetensors.torch import load_file

    net.load_state_dict(load_file(tmp_path / "mask.safetensors"))
    net.eval()
    samples = Samples(scenes, CPU)
    i, _ = samples.cut(samples.on[:1], torch.Generator(), augment=False)
    with torch.no_grad():
        logits, iou = net(i.rgb, i.depth, i.rays, i.point, i.plane)
    session = MaskNetwork(path)._session
    feed = {k: getattr(i, k).numpy() for k in ("rgb", "depth", "rays", "point", "plane")}
    logits_16, iou_16 = session.run(None, feed)
    assert np.abs(logits.numpy() - logits_16).max() < 0.02
    assert np.abs(iou.numpy() - iou_16).max() < 0.02
