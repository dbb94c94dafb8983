"""The scripted picker in the real cell: physics, kinematics and limits together."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.control.arm.action import command  # noqa: E402
from visuomotor.control.arm.config import CELL, CLASS_NAMES, JOINTS, LIMITS  # noqa: E402
from visuomotor.control.arm.messages import inputs_from_messages  # noqa: E402
from visuomotor.control.arm.picker import ScriptedPicker  # noqa: E402
from visuomotor.messages.schema import ArmState, Order, Tracks  # noqa: E402
from visuomotor.sim.cell.cell import CellWorlds  # noqa: E402
from visuomotor.sim.cell.scenario import cell_case  # noqa: E402
