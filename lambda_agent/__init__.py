"""What runs inside a function: one node of the pool, which keeps chunks in its memory.

Standard library and :mod:`infiniray.wire` only. A node never listens: it dials its shard when invoked.
"""
