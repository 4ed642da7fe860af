"""Masks by SAM 2 instead of geometry: python examples/mask_by_sam2.py [facebook/sam2.1-hiera-tiny]"""

import sys

import cv2
import numpy as np
import torch
from transformers import Sam2Model

from molmo_ros import Grounder
from molmo_ros.sim import SimCamera

checkpoint = sys.argv[1] if len(sys.argv) > 1 else "facebook/sam2.1-hiera-tiny"  # fetched if it is not cached
model = Sam2Model.from_pretrained(checkpoint, use_safetensors=True).eval()
SIZE, MEAN, STD = 1024, np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def segmenter(frame, point):
    height, width = frame.depth.shape
    pixels = (cv2.resize(frame.rgb, (SIZE, SIZE)) / 255 - MEAN) / STD
    at = torch.tensor([[[[point.x * SIZE / width, point.y * SIZE / height]]]])
    with torch.no_grad():
        image = torch.tensor(pixels).float().permute(2, 0, 1)[None]
        label = torch.ones(1, 1, 1, dtype=torch.int)
        seen = model(image, input_points=at, input_labels=label, multimask_output=False)
    return cv2.resize(seen.pred_masks[0, 0, 0].numpy(), (width, height)) > 0


camera, grounder = SimCamera(seed=7), Grounder.load()
grounder.segmenter = segmenter
for target in grounder.grasp(camera.frame(), f"the {camera.truth.objects[0].name}").targets:
    print(target.point.label, target.status.name, target.status_text)
