"""Redundancy schemes and the kernels that compute them."""
