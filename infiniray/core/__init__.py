"""Decisions. Pure: no Ray, asyncio, sockets, threads, wall clock or random numbers.

Start reading at :mod:`infiniray.core.shard`; :mod:`~infiniray.core.events` and :mod:`~infiniray.core.commands` are its
whole interface to the world.
"""
