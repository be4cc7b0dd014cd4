"""The clusters that `--cluster` accepts, with the flags of each. A new cluster is a class and an entry here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from launch.clusters.cluster import Cluster
from launch.clusters.local import Local
from launch.clusters.ray import RayCluster
from launch.clusters.slurm import Slurm


@dataclass(frozen=True)
class ClusterChoice:
    """The name of the cluster, and the settings of each by its name; the local one has none."""

    cluster: Literal["local", "slurm", "ray"] = "local"
    """Where the workers run: on this machine, as SLURM job arrays, or on a Ray cluster."""
    slurm: Slurm = field(default_factory=Slurm)
    ray: RayCluster = field(default_factory=RayCluster)

    def chosen(self) -> Cluster:
        """Returns the cluster that `cluster` names, with its settings."""
        chosen: Cluster = Local() if self.cluster == "local" else getattr(self, self.cluster)
        return chosen

    def others(self) -> list[Cluster]:
        """Returns the settings of the other clusters."""
        settings = [getattr(self, item.name) for item in fields(ClusterChoice)]
        return [one for one in settings if isinstance(one, Cluster) and one.name != self.cluster]


CLUSTERS: tuple[Cluster, ...] = (Local(), *ClusterChoice().others())
"""One of each kind, with default settings, to find what any of them has queued."""
