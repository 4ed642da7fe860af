"""A camera whose lens distorts: targets are right in space, and their pixels are those of its raw image."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from raw_camera import D as COEFFICIENTS
from raw_camera import K as RAW_K
from raw_camera import RawCamera
from ros_helpers import GOOD, SEED, Camera

from molmo_ros.camera.conversions import depth_message, image_message
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.client import GraspClient
from molmo_ros.sim import SimCamera


@pytest.fixture(scope="module")
def lens(frame: RgbdFrame) -> RawCamera:
    return RawCamera(frame)


@pytest.fixture(scope="module")
def raw(frame: RgbdFrame, lens: RawCamera) -> RgbdFrame:
    return lens.bend(frame)


def bend(raw: RgbdFrame, image: Any, depth: Any, info: Any) -> None:
    """Make three messages of the pinhole camera those of the raw one."""
    image.data = image_message(raw.rgb, "rgb8", image.header).data
    depth.data = depth_message(raw.depth, depth.header).data
    info.d, info.k = COEFFICIENTS, RAW_K.ravel().tolist()


def is_right(target: Any, frame: RgbdFrame, lens: RawCamera) -> None:
    """The pixel lies on the object in the raw image, the position where that pixel's ray meets it."""
    truth = SimCamera(SEED).truth
    number = next(i for i, thing in enumerate(truth.objects, 1) if thing.name in GOOD)
    u, v = target.point.x, target.point.y
    assert lens.bend_ids(truth.ids)[round(v), round(u)] == number
    column, row = np.round(lens.pinhole(u, v)).astype(int)
    z = truth.depth[row, column]
    found = np.array([target.position.x, target.position.y, target.position.z])
    assert np.linalg.norm(found - z * lens.ray(u, v)) < 0.010
    # Without rectification the target would lie here.
    assert np.linalg.norm(z * (np.linalg.inv(frame.K) @ [u, v, 1.0]) - found) > 0.010


def test_a_distorting_camera(
    camera: Camera, client: GraspClient, frame: RgbdFrame, lens: RawCamera, raw: RgbdFrame
) -> None:
    camera.show(lambda *messages: bend(raw, *messages))
    response = client.find(GOOD)
    assert response.success, response.message
    (target,) = response.targets
    is_right(target, frame, lens)


def test_what_is_followed_is_told_in_the_raw_image(
    camera: Camera, client: GraspClient, frame: RgbdFrame, lens: RawCamera, raw: RgbdFrame
) -> None:
    end = threading.Event()

    def run() -> None:
        while not end.wait(1 / 15):
            messages = camera.messages()
            bend(raw, *messages)
            camera.publish(*messages)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    goal = client.track(GOOD)
    try:
        following = []
        while len(following) < 5:  # also what has been followed, not only what the model just said
            feedback = next(goal)
            following += [feedback] if feedback.stage == "following" else []
    finally:
        goal.close()
        end.set()
        thread.join(2.0)
        camera.forget()
    is_right(following[-1].targets[0], frame, lens)
