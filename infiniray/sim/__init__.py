"""The decisions of :mod:`infiniray.core` in virtual time, on a modelled function platform.

The second driver: it executes the same commands as :mod:`infiniray.runtime`, with a heap of events for a clock,
tuples for payload and seeded numbers for chance. The fault tests run thousands of schedules under it; a failing one
is replayed by its
seed: ``infiniray soak --replay SEED``.
"""
