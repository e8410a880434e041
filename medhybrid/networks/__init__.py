"""Network blocks, encoder, Transformer and decoder, and the networks that combine them."""

from medhybrid.networks.build import Network, build_network
from medhybrid.networks.hybrid import SegmentationNetwork
from medhybrid.networks.logits import Logits
from medhybrid.networks.transunet import TransUNet

__all__ = ["Logits", "Network", "SegmentationNetwork", "TransUNet", "build_network"]
