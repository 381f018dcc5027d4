"""The planner: which pool to buy for a trace, so that a goal is met at the least cost.

- ``space``: what can be chosen, what is asked for, what a choice comes to.
- ``arithmetic``: what is known of a choice without simulating it.
- ``search``: which choices are simulated, on a sample of the trace first and then on the whole.
- ``report``: what it would buy, as table, document and picture.
"""
