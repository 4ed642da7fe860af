"""Find things in any image: python examples/point_in_image.py IMAGE "the red mug" """

import sys

from molmo_ros import Grounder
from molmo_ros.io import read_color

if len(sys.argv) != 3:
    sys.exit(__doc__)
image, query = sys.argv[1:]
grounder = Grounder.load()  # Grounder.load("allenai/Molmo2-4B") takes an official checkpoint
answer = grounder.point(read_color(image), query)
for point in answer.points:
    print(f"{point.label}: ({point.x:.0f}, {point.y:.0f}) px, confidence {point.confidence:.2f}")
print(f"{len(answer.points)} found")
