"""One page with plots of what replays and simulations found. Each plot is a function of a results table.

Plots are drawn and saved inside :func:`workloads.report.style.styled`.
"""
