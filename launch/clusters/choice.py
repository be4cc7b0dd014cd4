"""The clusters that `--cluster` can name, with the flags of each. A further one is a class and its entry here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from launch.clusters.cluster import Cluster
from launch.clusters.local import Local
from launch.clusters.ray import RayCluster
from launch.clusters.slurm import Slurm


@dataclass(frozen=True)
class ClusterChoice:
    """Which cluster, and the settings of each by its name; those of the local one do not exist."""

    cluster: Literal["local", "slurm", "ray"] = "local"
    """Where the workers run: on this machine, as SLURM job arrays, or on a Ray cluster."""
    slurm: Slurm = field(default_factory=Slurm)
    ray: RayCluster = field(default_factory=RayCluster)

    def chosen(self) -> Cluster:
        """The cluster that `cluster` names, with its settings."""
        chosen: Cluster = Local() if self.cluster == "local" else getattr(self, self.cluster)
        return chosen

    def others(self) -> list[Cluster]:
        """The settings of all others."""
        settings = [getattr(self, item.name) for item in fields(ClusterChoice)]
        return [one for one in settings if isinstance(one, Cluster) and one.name != self.cluster]


CLUSTERS: tuple[Cluster, ...] = (Local(), *ClusterChoice().others())
"""One of each kind, with default settings: to ask for what any of them has queued."""
