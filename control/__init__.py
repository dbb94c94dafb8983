"""Observation, action, kinematics, policy, guard and baselines of the robot."""
