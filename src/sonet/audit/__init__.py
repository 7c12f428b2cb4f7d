"""Checks whether measured robustness is real. So far: the leak between batch-mates."""

from sonet.audit.leak import own_gradient_share

__all__ = ["own_gradient_share"]
