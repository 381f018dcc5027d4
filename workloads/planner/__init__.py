"""The planner: which pool to buy for a trace, so that a goal is met at the least cost.

- ``space``: what can be chosen, what is asked for, what a choice comes to.
- ``arithmetic``: what is known of a choice without simulating it.
- ``simulating``, ``configured``: how a choice is simulated, and what it means in the cache's configuration.
- ``surrogate``: a guess at what was not tried, from what was.
- ``seeking``: which choices are simulated on a sample of the trace.
- ``search``: all of it, in turns: the sample is searched, and the best of it confirmed on the whole.
- ``plan``: what was found.
- ``report``: what it would buy, as table, document and picture.
"""
