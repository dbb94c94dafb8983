from __future__ import annotations

import pytest

from visuomotor.launch.process_table import create_node, make_table
from visuomotor.launch.profile import load_profile


@pytest.mark.parametrize(("name", "latched"), [("drive", False), ("vehicle-video", True), ("sim-can", True)])
def test_a_guard_in_place_of_one_that_died_is_latched_where_a_person_sits_in_the_car(name: str, latched: bool):
    (spec,) = (spec for spec in make_table(load_profile(name)) if spec.name == "guard")
    first, again = create_node(spec), create_node(spec.after_restart())
    assert (first.guard.latched, again.guard.latched) == (False, latched)
    assert again.guard.settings.enabled
    assert spec.config == {"enabled": True}, "the table itself stays as it is"
