"""asyncio executes what :mod:`infiniray.core` decides, and feeds back what happened.

Start at :mod:`~infiniray.runtime.driver`. Does not know Ray: a test, or another framework, can run a shard as well.
"""
