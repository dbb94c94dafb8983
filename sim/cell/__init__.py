"""The robot cell: a Panda beside a conveyor, parts and bins, in PyBullet."""
