"""config/fastdds.xml: Fast DDS takes it, and an image goes through shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROFILE = Path(__file__).parents[2] / "config" / "fastdds.xml"
SEND = """
import time
import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from molmo_ros.camera.conversions import image_message
from molmo_ros.ros.messages import make_header

rclpy.init()
node, heard = rclpy.create_node("large"), []
node.create_subscription(Image, "large", lambda m: heard.append(m), qos_profile_sensor_data)
publisher = node.create_publisher(Image, "large", qos_profile_sensor_data)
image = image_message(np.zeros((1080, 1920, 3), np.uint8), "rgb8", make_header("x", 0))
give_up = time.monotonic() + 60
while not heard and time.monotonic() < give_up:
    publisher.publish(image)
    rclpy.spin_once(node, timeout_sec=0.1)
print("heard", len(heard[0].data) if heard else 0)
"""


@pytest.mark.parametrize("good", [True, False])
def test_profile_is_taken(good: bool, tmp_path: Path) -> None:
    """Fast DDS complains about a malformed one, so silence means success."""
    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp":
        pytest.skip("another middleware than Fast DDS is chosen")
    text = PROFILE.read_text()
    profile = tmp_path / "fastdds.xml"
    profile.write_text(text if good else text.replace("<segment_size>", "<segment_sighs>"))
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    env = {**os.environ, **dict.fromkeys(names, str(profile))}
    done = subprocess.run([sys.executable, "-c", SEND], env=env, capture_output=True, text=True, timeout=180)
    assert ("XMLPARSER" in done.stdout + done.stderr) is not good, done.stdout + done.stderr
    if good:
        assert f"heard {1080 * 1920 * 3}" in done.stdout, done.stderr
