"""Getting models onto the robot and running them there."""
