"""The functions of a platform that the cache has to itself: made when it comes up, gone when it goes."""

from __future__ import annotations

from collections.abc import Iterable

from infiniray.config import Config
from infiniray.faas.deploy.apply import apply
from infiniray.faas.deploy.clients import Clients, control_client, scope_of
from infiniray.faas.deploy.code import code_spec
from infiniray.faas.deploy.desired import function_specs
from infiniray.faas.deploy.functions import read_functions
from infiniray.faas.deploy.plan import plan_deploy, plan_undeploy
from infiniray.faas.deploy.resources import Actual, Desired

__all__ = ["FunctionPool"]


class FunctionPool:
    """I make functions of a pool exist, all alike, and go away again. Others of the pool I leave alone.

    On a platform that ``up`` has not started, ``infiniray deploy`` does that, and I am not asked.

    Args:
        names: of the functions.
        secret: what shards and nodes prove each other's right with, as hex.
        endpoint_url: of the platform.
    """

    def __init__(self, config: Config, names: Iterable[str], *, secret: str, endpoint_url: str | None) -> None:
        self._names = tuple(names)
        self._scope = scope_of(config)
        self._clients = Clients(functions=control_client(endpoint_url, config.platform.region))
        self._code = code_spec(self._scope, bucket=None)
        self._specs = function_specs(config, self._scope, self._names, secret)

    def ensure(self) -> None:
        """Create those that are missing and bring the others up to date. Doing it again changes nothing.

        Raises:
            PlatformError: the platform refused.
            NameTaken: there is a function of such a name that is not this cache's.
        """
        desired = Desired(code=self._code, functions=self._specs)
        apply(plan_deploy(desired, self._actual()), self._clients, self._scope, self._code)

    def delete(self) -> None:
        """Delete all that exist.

        Raises:
            PlatformError: the platform refused.
        """
        apply(plan_undeploy(self._actual()), self._clients, self._scope, self._code)

    def _actual(self) -> Actual:
        return Actual(functions=read_functions(self._clients.functions, self._scope, self._names))
