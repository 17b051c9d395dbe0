"""Generators as files that run without gsd: ONNX and torch's exported programs."""
