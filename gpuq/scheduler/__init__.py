"""Who starts next, where, and why the others wait. Pure: plan(view, now, policy) -> Plan reads nothing else."""

from gpuq.scheduler.explain import Explainer, NodeAnswer, by_node, explain, would_stop
from gpuq.scheduler.forecast import Start
from gpuq.scheduler.instead import instead
from gpuq.scheduler.plan import plan
from gpuq.scheduler.promise import promised

__all__ = ["Explainer", "NodeAnswer", "Start", "by_node", "explain", "instead", "plan", "promised", "would_stop"]
