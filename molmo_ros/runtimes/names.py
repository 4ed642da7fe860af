"""What runtimes and precisions are called, once. Imports nothing, since command line and settings need it."""

from __future__ import annotations

OPENVINO = ("fp32", "bf16", "int8", "int4")  # its precisions
TENSORRT = ("tensorrt", "tensorrt_rtx")
CUDA = "cuda"
RUNTIMES = ("auto", "onnx", "openvino", CUDA, *TENSORRT, "eager")  # here, not on a server
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8_dynamic", "int4", "fp8")
