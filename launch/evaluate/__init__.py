"""Suites, metrics and tables."""
