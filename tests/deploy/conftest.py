"""Lets tests of this folder import ``foreign_models``, which needs onnx and so is not imported here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
