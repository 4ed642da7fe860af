"""Tracking a target from frame to frame, between two answers of the model."""
