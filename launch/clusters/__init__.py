"""Clusters: ways to start worker processes for the missing shards of a run."""
