"""Lets tests of this folder import ``foreign_models`` and ``sb3_toys``; they need onnx and torch, so not from here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
