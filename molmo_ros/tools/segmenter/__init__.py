"""Train the network that predicts the mask of the thing at a point (docs/segmenting.md), on simulated data.

python -m molmo_ros.tools.segmenter.data   --scenes 20000 --out DATA     # resumable, all cores
python -m molmo_ros.tools.segmenter.train  --data DATA --out RUN         # resumable; on a GPU if there is one
python -m molmo_ros.tools.segmenter.export --run RUN --out molmo_ros/assets/segmenter/mask.onnx
"""
