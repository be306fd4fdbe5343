"""Spakky Framework's published packages, in an environment of their own with ours among them."""

from framework.environment import Environment, prepare

__all__ = ["Environment", "prepare"]
