"""What generators of traces are fitted to, and those that are not registries: YCSB-like mixes, bursts."""

from __future__ import annotations

from workloads.generators.bursts import Bursts
from workloads.generators.ycsb import MIXES, YcsbMix

__all__ = ["MIXES", "Bursts", "YcsbMix"]
