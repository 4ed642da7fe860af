"""Masks by SAM 2 instead of geometry: python examples/mask_by_sam2.py [facebook/sam2.1-hiera-tiny]"""

import sys

from transformers import Sam2Model, Sam2Processor

from molmo_ros import Grounder
from molmo_ros.sim import SimCamera

name = sys.argv[1] if len(sys.argv) > 1 else "facebook/sam2.1-hiera-tiny"
model, processor = Sam2Model.from_pretrained(name).eval(), Sam2Processor.from_pretrained(name)


def segmenter(frame, point):
    asked = {"input_points": [[[[point.x, point.y]]]], "input_labels": [[[1]]]}
    inputs = processor(images=frame.rgb, **asked, return_tensors="pt")
    masks = model(**inputs, multimask_output=False).pred_masks.detach()
    return processor.post_process_masks(masks, inputs["original_sizes"])[0][0, 0].numpy()


grounder = Grounder.load()
grounder.segmenter = segmenter
for target in grounder.grasp(SimCamera(seed=7).frame(), "all mugs").targets:
    print(target.point.label, target.status.name, target.status_text)
