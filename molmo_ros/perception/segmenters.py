"""Names of the ways to find the mask of an object (``find_object``)."""

AUTO, LEARNED, GEOMETRY = "auto", "learned", "geometry"
SEGMENTERS = (AUTO, LEARNED, GEOMETRY)
