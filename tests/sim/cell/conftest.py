import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def cell():
    """One cell, shared by the tests of a module: every test resets it."""
    worlds_module = pytest.importorskip("visuomotor.sim.cell.cell")
    worlds = worlds_module.CellWorlds(1)
    yield worlds
    worlds.close()
