"""The model, defined once: configuration, weights, and the ONNX graphs that every runtime executes."""
