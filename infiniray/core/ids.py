"""Names of things, as types of their own so that one cannot be taken for another."""

from __future__ import annotations

from typing import NewType

__all__ = ["InstanceId", "LinkId", "NodeId", "OpId", "RequestId", "SessionId", "Timer"]

#: A function of the pool, by its name on the platform.
NodeId = NewType("NodeId", str)
#: One execution environment of a node: named by itself, new after every reclaim.
InstanceId = NewType("InstanceId", str)
#: One authenticated connection from an instance; numbered by the driver.
LinkId = NewType("LinkId", int)
#: One invocation of a node.
SessionId = NewType("SessionId", str)
#: One operation: a read, a write, a repair. Clients' operations are numbered by the driver (positive), repairs by
#: the shard (negative).
OpId = NewType("OpId", int)
#: One request to a node; the number that its frames carry.
RequestId = NewType("RequestId", int)
#: What a timer is for, and whose it is. Setting a timer that is set moves it.
Timer = tuple[str, int | str]
