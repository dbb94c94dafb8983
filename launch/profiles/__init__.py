"""Profiles: which nodes, cameras, bundles and limits make up a run."""
