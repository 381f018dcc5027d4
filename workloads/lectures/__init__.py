"""Pages of the lecture on this kind of cache, as examples that run.

Each computes its numbers with the cache's own code, tells them as tables, and draws them.
"""
