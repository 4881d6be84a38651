"""Who starts next, where, and why the others wait. Pure: plan(view, now, policy) -> Plan reads nothing else."""

from gpuq.scheduler.explain import Explainer, explain, shortfalls
from gpuq.scheduler.plan import plan

__all__ = ["Explainer", "explain", "plan", "shortfalls"]
