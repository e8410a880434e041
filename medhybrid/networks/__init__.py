"""Blocks, encoder, Transformer, decoder, and the network made of them."""

from medhybrid.networks.hybrid import Logits, SegmentationNetwork, build_network

__all__ = ["Logits", "SegmentationNetwork", "build_network"]
