"""Every call of Ray's API is made here.

What Ray raises is turned into InfiniRay's errors here too: above this module nobody knows Ray's exceptions.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infiniray.cluster.deadline import Deadline
from infiniray.cluster.priority import WORKER_NICENESS
from infiniray.errors import CacheUnavailable, ConfigError, InfiniRayError

__all__ = [
    "NAMESPACE",
    "Actor",
    "Machine",
    "Ref",
    "actor_names",
    "address",
    "attach",
    "awaited",
    "cancel",
    "crash",
    "create_actor",
    "disconnect",
    "find_actor",
    "is_connected",
    "kill",
    "local_node_id",
    "local_node_ip",
    "machines",
    "place",
    "require_answer",
    "start_local",
    "store_create",
    "store_delete",
    "store_delete_all",
    "store_get",
    "store_keys",
    "store_put",
    "submit_task",
    "translated",
    "wait",
    "wait_async",
    "was_restarted",
]

#: The Ray namespace of all actors of all caches, whatever namespace their users' jobs are in.
NAMESPACE = "infiniray"
#: How much longer than its callee a caller waits: the callee's own error says more than "no answer".
GRACE_S = 0.5
#: An actor that claims nothing at all is started on any node, whichever it was to be on; every node offers memory.
_CLAIMED_BYTES = 1
#: For Ray's head to accept a connection.
_DIAL_TIMEOUT_S = 5.0

Actor = Any  # ray.actor.ActorHandle: its methods are not typed
Ref = Any  # ray.ObjectRef

_UNAVAILABLE = (
    ray.exceptions.RayActorError,  # died, restarting, or out of reach
    ray.exceptions.ObjectLostError,  # the answer's, not a cached object's
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.TaskCancelledError,
    ray.exceptions.ObjectStoreFullError,
    ray.exceptions.RaySystemError,
    ray.exceptions.RuntimeEnvSetupError,
)


# ---------------------------------------------------------------- the connection of this process


def is_connected() -> bool:
    return bool(ray.is_initialized())


def start_local(num_cpus: int | None = None, object_store_bytes: int | None = None) -> None:
    """Start a Ray of this process's own; it ends with :func:`disconnect` or with the process."""
    for name, value in WORKER_NICENESS.items():
        os.environ.setdefault(name, value)
    _init(address="local", include_dashboard=False, num_cpus=num_cpus, object_store_memory=object_store_bytes)


def attach(address: str, *, has_token_auth: bool = False) -> None:
    """Connect to a running Ray.

    Args:
        has_token_auth: it wants to see the user's token, which Ray offers only where ``RAY_AUTH_MODE`` says so.

    Raises:
        CacheUnavailable: there is none.
        ConfigError: it is an address of Ray Client, which is no connection of a driver.
    """
    require_answer(address)
    if has_token_auth:
        _offer_token()
    try:
        _init(address=address)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        detail = f"no Ray can be reached at {address!r}: {error}"
        raise CacheUnavailable(detail=detail) from error


def require_answer(address: str) -> None:
    """Be sure that somebody listens there: Ray itself would take a minute to find out.

    Raises:
        CacheUnavailable: nobody does.
        ConfigError: it is an address of Ray Client, which is no connection of a driver.
    """
    if address.startswith("ray://"):
        detail = f"{address!r} is Ray Client's: run this on a machine of the cluster, with its address as HOST:PORT"
        raise ConfigError(detail=detail)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), _DIAL_TIMEOUT_S).close()
    except (OSError, UnicodeError, OverflowError) as error:
        raise CacheUnavailable(detail=f"no Ray can be reached at {address!r}: {error}") from error


def _offer_token() -> None:
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        with contextlib.suppress(ImportError, AttributeError):  # Ray read its settings when it was imported
            importlib.import_module("ray._raylet").Config.initialize("")


def _init(**options: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray asks only for its presence, then for its value
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


def disconnect() -> None:
    ray.shutdown()


def address() -> str:
    """Where other processes reach the Ray that this one is connected to."""
    return str(ray.get_runtime_context().gcs_address)


def local_node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def local_node_ip() -> str:
    """The address by which the other machines of the cluster reach this one: in a VPC its private one, of a pod its
    own."""
    node_ip: Any = ray.util.get_node_ip_address  # not typed
    return str(node_ip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One of Ray's nodes. ``n_cpus``: that it offers to tasks; none, if it is to be left alone."""

    id: str
    address: str
    n_cpus: float


def machines() -> list[Machine]:
    """Those that are alive, by id. Blocks. Raises: CacheUnavailable: Ray's control store, which knows, is away."""
    list_nodes: Any = ray.nodes  # not typed
    alive = [node for node in _stored(list_nodes) if node["Alive"]]
    found = (
        Machine(id=node["NodeID"], address=node["NodeManagerAddress"], n_cpus=node["Resources"].get("CPU", 0.0))
        for node in alive
    )
    return sorted(found, key=lambda machine: machine.id)


# ---------------------------------------------------------------- actors


def create_actor(
    kind: type,
    *args: Any,
    name: str,
    max_concurrency: int,
    on_node: str,
    may_move: bool,
    **kwargs: Any,
) -> Actor:
    """Create a named, detached actor that Ray restarts whenever it dies; or find it if it is there.

    Args:
        on_node: the Ray node that it runs on.
        may_move: once that node is lost, it is restarted on any other.
    """
    options: Any = ray.remote(kind).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=max_concurrency,
        num_cpus=0,
        memory=_CLAIMED_BYTES,
        scheduling_strategy=NodeAffinitySchedulingStrategy(on_node, soft=may_move),
    )
    return options.remote(*args, **kwargs)


def find_actor(name: str) -> Actor:
    """The actor of this name.

    Raises:
        CacheUnavailable: there is none.
    """
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise CacheUnavailable(detail=f"no Ray actor {name!r}") from None
    except ray.exceptions.RayError as error:
        raise translated(error, f"looking up actor {name!r}") from error


def actor_names() -> list[str]:
    """The names of all actors of all caches. Raises: CacheUnavailable: Ray's control store, which knows, is away."""
    named: list[dict[str, str]] = _stored(lambda: ray.util.list_named_actors(all_namespaces=True))
    return sorted(actor["name"] for actor in named if actor["namespace"] == NAMESPACE)


def kill(actor: Actor) -> None:
    """End an actor for good: it is not restarted. Its name is free afterwards."""
    ray.kill(actor, no_restart=True)


def crash(actor: Actor) -> None:
    """End the actor's process as a fault would: Ray restarts it."""
    ray.kill(actor, no_restart=False)


def was_restarted() -> bool:
    """Of the actor that asks: whether Ray has restarted it."""
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


# ---------------------------------------------------------------- what outlives actors

#: In Ray's control store, which lives with the head.
_STORE = b"infiniray"


def store_put(key: str, value: str | bytes) -> None:
    """Write into Ray's control store. Blocks.

    Raises:
        CacheUnavailable: it cannot be reached.
    """
    _stored(lambda: internal_kv._internal_kv_put(key, value, overwrite=True, namespace=_STORE))


def store_create(key: str, value: str | bytes) -> bool:
    """Write what is not there; False: it is there, and stays as it is. Blocks.

    Raises:
        CacheUnavailable: the store cannot be reached.
    """
    was_there: bool = _stored(lambda: internal_kv._internal_kv_put(key, value, overwrite=False, namespace=_STORE))
    return not was_there


def store_get(key: str) -> bytes | None:
    """Raises: CacheUnavailable: the store cannot be reached."""
    value: bytes | None = _stored(lambda: internal_kv._internal_kv_get(key, namespace=_STORE))
    return value


def store_keys(prefix: str) -> list[str]:
    """Raises: CacheUnavailable: the store cannot be reached."""
    keys: list[bytes] = _stored(lambda: internal_kv._internal_kv_list(prefix, namespace=_STORE))
    return sorted(key.decode() for key in keys)


def store_delete(key: str) -> None:
    _stored(lambda: internal_kv._internal_kv_del(key, namespace=_STORE))


def store_delete_all(prefix: str) -> None:
    _stored(lambda: internal_kv._internal_kv_del(prefix, del_by_prefix=True, namespace=_STORE))


def _stored(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        raise CacheUnavailable(detail=f"Ray's control store cannot be reached: {_first_line(error)}") from error


# ---------------------------------------------------------------- objects and tasks


def place(buffer: Any) -> Ref:
    """Put a buffer into Ray's shared memory: one copy; owned by this process.

    Raises:
        CacheUnavailable: Ray's store is full.
    """
    try:
        return ray.put(buffer)
    except ray.exceptions.RayError as error:
        raise translated(error, "placing a value into Ray's object store") from error


def submit_task(function: Callable[..., Any], *args: Any, num_cpus: float, num_returns: int) -> list[Ref]:
    """Run a function in a worker process: one reference per returned value."""
    task = ray.remote(function).options(num_cpus=num_cpus, num_returns=num_returns, max_retries=0)
    refs = task.remote(*args)
    return refs if num_returns > 1 else [refs]


def cancel(ref: Ref) -> None:
    """Stop what computes ``ref``, if it has not ended; a coroutine of an actor gets a CancelledError."""
    ray.cancel(ref)


def wait(ref: Ref, deadline: Deadline, operation: str, key: str = "") -> Any:
    """The value of ``ref``.

    Raises:
        DeadlineExceeded: not there by then; what computes it has been cancelled.
        CacheUnavailable: the actor that should have answered died or cannot be reached.
        InfiniRayError: whatever it raised.
    """
    try:
        return ray.get(ref, timeout=deadline.left_s() + GRACE_S)
    except ray.exceptions.GetTimeoutError:
        cancel(ref)
        raise deadline.exceeded(operation, key, "no answer from the shard") from None
    except ray.exceptions.RayError as error:
        raise translated(error, operation) from None
    except KeyboardInterrupt:
        cancel(ref)
        raise


async def wait_async(ref: Ref, deadline: Deadline, operation: str, key: str = "") -> Any:
    """As :func:`wait`, on an event loop. Cancelling it cancels what computes ``ref``."""
    try:
        return await asyncio.wait_for(awaited(ref), deadline.left_s() + GRACE_S)
    except InfiniRayError:  # before TimeoutError: the callee may have raised one that is both
        raise
    except (asyncio.TimeoutError, TimeoutError):
        cancel(ref)
        raise deadline.exceeded(operation, key, "no answer from the shard") from None
    except asyncio.CancelledError:
        cancel(ref)
        raise


async def awaited(ref: Ref) -> Any:
    """The value of ``ref``, as InfiniRay's errors where there is none; with no deadline of its own."""
    try:
        return await ref
    except ray.exceptions.RayError as error:
        raise translated(error, "a call") from None


def translated(error: BaseException, operation: str) -> Exception:
    """The InfiniRay error, or the user's own exception, that an exception of Ray's stands for."""
    cause = getattr(error, "cause", None) or getattr(error, "client_exc", None)
    if isinstance(cause, InfiniRayError):
        return cause
    if isinstance(error, _UNAVAILABLE):
        return CacheUnavailable(detail=f"{operation}: {type(error).__name__}: {_first_line(error)}")
    detail = f"{operation} failed inside the cache: {_first_line(cause or error)}"
    return InfiniRayError(detail=detail)


def _first_line(error: BaseException) -> str:
    return f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__
