"""Starts: a network that begins with weights learnt elsewhere, as far as they fit."""

from medhybrid.starts.begin import begin_with
from medhybrid.starts.files import read_weights
from medhybrid.starts.fit import Row, Start

__all__ = ["Row", "Start", "begin_with", "read_weights"]
