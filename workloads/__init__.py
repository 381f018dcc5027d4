"""Workloads: traces of object requests, generators of such traces, and what replays them against a cache."""
