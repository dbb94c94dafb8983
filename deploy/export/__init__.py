"""torch -> ONNX bundle, with parity checks."""
