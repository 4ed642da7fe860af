"""Ask a running node, from any process: python examples/ask_a_running_node.py "the red mug" """

import sys

from molmo_ros.ros.client import GraspClient

if len(sys.argv) != 2:
    sys.exit(__doc__)
with GraspClient() as client:
    client.wait_ready()
    response = client.find(sys.argv[1])
    print(response.message or response.answer)
    for target in response.targets:
        at = target.position
        print(f"{target.point.label}: ({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m in {target.header.frame_id}")
        fingers = f"open to {1000 * target.opening:.0f} mm, close on {1000 * target.width:.0f} mm"
        print(target.status_text or f"grasp {target.grasp_pose}, {fingers}")
