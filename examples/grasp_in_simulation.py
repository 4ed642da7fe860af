"""From a query to a grasp on a simulated camera: python examples/grasp_in_simulation.py [picture.png]"""

import sys

from molmo_ros import Grounder
from molmo_ros.draw import picture
from molmo_ros.sim import SimCamera

camera = SimCamera(seed=7)
grounder = Grounder.load(gripper="franka_hand")
frame = camera.frame()
grounding = grounder.grasp(frame, f"the {camera.truth.objects[0].name}")
for target in grounding.targets:
    print(target.point.label, target.status.name, "at", target.position, "m in", target.frame_id)
    if target.grasp:
        print("grasp", target.grasp.pose, f"opening {1000 * target.grasp.width:.0f} mm")
picture(frame, grounding, grounder.gripper).save(sys.argv[1] if len(sys.argv) > 1 else "grasp.png")
