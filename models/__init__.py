"""The shipped bundles."""
