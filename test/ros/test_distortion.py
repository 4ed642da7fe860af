"""A camera whose lens distorts: targets are right in space, and their pixels are those of its raw image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from ros_helpers import GOOD, SEED, Camera

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.conversions import depth_message, image_message
from molmo_ros.sim import SimCamera

D = [-0.25, 0.06, 0.001, 0.0, 0.0]
K = np.array(
    [[700.0, 0, 345.0], [0, 702.0, 222.0], [0, 0, 1]]
)  # of the raw image; P is the simulated camera's


@pytest.fixture(scope="module")
def raw_grid(frame: RgbdFrame) -> Any:
    """Where each pixel of the raw image is in the simulated (pinhole) one, x and y (H,W)."""
    height, width = frame.depth.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 1, 2)
    ideal = cv2.undistortPoints(pixels.astype(np.float64), K, np.array(D), P=frame.K)
    return np.moveaxis(ideal.reshape(height, width, 2), 2, 0).astype(np.float32)


def test_a_distorting_camera(camera: Camera, client: GraspClient, frame: RgbdFrame, raw_grid: Any) -> None:
    x, y = raw_grid

    def bend(image: Any, depth: Any, info: Any) -> None:
        rgb = cv2.remap(frame.rgb, x, y, cv2.INTER_LINEAR)
        metres = cv2.remap(frame.depth, x, y, cv2.INTER_NEAREST)
        for message, bent in (
            (image, image_message(rgb, "rgb8", image.header)),
            (depth, depth_message(metres, depth.header)),
        ):
            message.data = bent.data
        info.d, info.k = D, K.ravel().tolist()

    camera.show(bend)
    response = client.find(GOOD)
    assert response.success, response.message
    (target,) = response.targets
    truth = SimCamera(SEED).truth
    number = next(i for i, thing in enumerate(truth.objects, 1) if thing.name in GOOD)
    u, v = target.point.x, target.point.y
    raw_ids = cv2.remap(truth.ids.astype(np.uint8), x, y, cv2.INTER_NEAREST)
    assert raw_ids[round(v), round(u)] == number
    ideal = cv2.undistortPoints(np.array([[[u, v]]]), K, np.array(D))[0, 0]  # on z = 1
    column, row, _ = np.round(frame.K @ [*ideal, 1.0]).astype(int)
    z = truth.depth[row, column]
    found = np.array([target.position.x, target.position.y, target.position.z])
    assert np.linalg.norm(found - z * np.array([*ideal, 1.0])) < 0.010
    # Without rectification the target would lie here.
    assert np.linalg.norm(z * (np.linalg.inv(frame.K) @ [u, v, 1.0]) - found) > 0.010
