"""What a run would need on a cluster, layout by layout, without a GPU."""

from megadape.plan.cluster import Cluster
from megadape.plan.planner import Candidate, Plan, make_plan

__all__ = ["Candidate", "Cluster", "Plan", "make_plan"]
