"""Pretrained weights: initialisation of a network from the weights of another one, as far as they fit."""

from medhybrid.starts.begin import begin_with
from medhybrid.starts.files import read_weights
from medhybrid.starts.fit import Row, Start

__all__ = ["Row", "Start", "begin_with", "read_weights"]
