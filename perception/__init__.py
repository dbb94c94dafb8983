"""Frame -> detections -> tracks -> forecast. Runs on ONNX Runtime and numpy; torch lives in ``perception.train``."""
