"""Planning by budget: spacing, patch, network and number of steps that fit the time, memory and device of a training.

`make_plan` chooses; `measure_rates` times this machine for some seconds. Constants are in `choice`, chosen from trials
(`benchmarks/results/planning_trials.jsonl`).
"""

from medhybrid.planning.budget import Budget
from medhybrid.planning.plan import make_plan
from medhybrid.planning.rates import Rates, measure_rates

__all__ = ["Budget", "Rates", "make_plan", "measure_rates"]
