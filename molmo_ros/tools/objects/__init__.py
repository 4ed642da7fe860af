"""Recorded RGB-D frames with points on objects: what the package makes of them."""
