"""Bundles and ONNX Runtime sessions: the low layer that perception and control run on."""
