"""Figures, reports and review marks for readers."""
