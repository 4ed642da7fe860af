"""Recorded RGB-D frames with points on objects: evaluate the package on them."""
