"""InfiniRay on Ray: shards and supervisor as actors, codec tasks, and the client that routes to them.

The only package that imports Ray, and of it only :mod:`infiniray.cluster.rayapi` does. Nothing is imported here: the
command line reads :mod:`infiniray.cluster.state` without paying for Ray.
"""
