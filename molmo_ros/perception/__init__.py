"""From a pixel to an object in 3D: depth, position with covariance, mask, support plane, shape."""
