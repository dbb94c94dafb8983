"""Process table, supervisor, command line and profiles."""
