"""A new secret for functions that are there: in their settings, which replaces their instances."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from infiniray.config import Config
from infiniray.errors import DeployError, NotDeployed
from infiniray.faas.deploy.clients import control_client, scope_of
from infiniray.faas.deploy.explain import explained
from infiniray.faas.deploy.functions import read_function
from infiniray.faas.deploy.resources import SECRET
from infiniray.faas.deploy.scope import Scope

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

__all__ = ["renew_secret"]

_WORKERS = 8
#: Unlike a deployment's: a deploy gives all functions one secret at once, and with their instances all is lost.
_ADVICE = "Mend that; the rotation tries again by itself. Do not deploy meanwhile: that would empty the functions"


def renew_secret(config: Config, names: Iterable[str], *, secret: str, endpoint_url: str | None) -> None:
    """Put ``secret`` (hex) into the settings of functions, whoever has deployed them, and wait until it has taken
    effect: invocations from then on reach new instances. Those that have it already stay as they are; nothing else of
    their settings changes.

    Besides what shards' hosts may (:mod:`~infiniray.faas.deploy.host_policy`) this takes
    ``lambda:UpdateFunctionConfiguration``.

    Raises:
        NotDeployed: one is not there, or not the cache's own.
        DeployError: the platform refused, or cannot be reached; with what to do.
    """
    client, scope = control_client(endpoint_url, config.platform.region), scope_of(config)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="renew-secret") as executor:
        for _ in executor.map(lambda name: _renew(client, scope, name, secret), names):
            pass


def _renew(client: LambdaClient, scope: Scope, name: str, secret: str) -> None:
    state = read_function(client, scope, name)
    if state is None or not state.is_ours:
        raise NotDeployed(
            operation="rotate-secret",
            function=f"function {name}",
            detail="it does not bear this cache's tags" if state else "it is missing",
            advice="Have it there again; the rotation waits for it",
        )
    try:
        with explained("change the secret of", f"function {name}"):
            if state.environment.get(SECRET) != secret or state.configuration.get("LastUpdateStatus") == "Failed":
                variables: dict[str, Any] = {**state.environment, SECRET: secret}
                client.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
            client.get_waiter("function_updated_v2").wait(FunctionName=name)
    except DeployError as error:
        raise DeployError(
            operation=error.operation, function=error.function, detail=error.detail, advice=_ADVICE
        ) from error
