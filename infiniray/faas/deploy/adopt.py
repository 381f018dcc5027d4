"""Using functions that ``infiniray deploy`` has made: checked before anything relies on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from infiniray.config import Config
from infiniray.errors import NotDeployed
from infiniray.faas.deploy.clients import control_client, scope_of
from infiniray.faas.deploy.functions import read_functions
from infiniray.faas.deploy.resources import SECRET, FunctionState
from infiniray.faas.deploy.scope import node_names

__all__ = ["MIXED_SECRETS", "deployed_secret", "is_deployed_apart", "require_deployed", "require_nodes"]

_SHOWN = 3
#: What to do when functions of one pool have different secrets.
MIXED_SECRETS = (
    "If their cache is up, its secret is being changed (`infiniray status`): wait, since to deploy now would empty "
    "functions. If it is down, deploy with the same configuration (`infiniray deploy`)"
)
_LEFT_BEHIND = (
    "Functions that were not in the pool when its secret was changed have the former one. `infiniray deploy --plan` "
    "says which functions would lose what they hold: if none of the pool's, deploy, and do this again"
)
_DEPLOY = "Deploy with the same configuration (`infiniray deploy`), then bring the cache up again"


def is_deployed_apart(config: Config) -> bool:
    """Whether the pool's functions are made by ``infiniray deploy``: on any platform that ``infiniray up`` does not
    start itself."""
    return config.platform.kind == "aws" or config.platform.endpoint_url is not None


def deployed_secret(config: Config, endpoint_url: str | None) -> str:
    """The secret, as hex, that the deployed functions of ``config`` share, once they are seen to be all there.

    It asks for each function by name, as the shards' host may (:mod:`~infiniray.faas.deploy.host_policy`).

    Raises:
        NotDeployed: functions are missing, half made, not the cache's own, or not as configured.
        DeployError: the platform refused, or cannot be reached.
    """
    # tags say the cache and the region; the account is whatever the credentials are of
    scope = scope_of(config)
    names = node_names(config)
    states = read_functions(control_client(endpoint_url, config.platform.region), scope, names)
    require_deployed(config, states)
    return states[names[0]].environment[SECRET]


def require_deployed(config: Config, states: Mapping[str, FunctionState]) -> None:
    """Make sure that ``states`` are all the functions of ``config``, and as it says.

    Raises:
        NotDeployed: functions are missing, half made, not the cache's own, or not as configured.
    """
    names = node_names(config)
    ours = (states[name] for name in names if name in states and states[name].is_ours)
    secret = next((state.environment.get(SECRET) for state in ours), None)
    _require(config, dict.fromkeys(names, secret), states, MIXED_SECRETS if _are_mixed(states.values()) else _DEPLOY)


def require_nodes(config: Config, secrets: Mapping[str, str], endpoint_url: str | None) -> None:
    """Make sure that functions which a cache is to use have been deployed as configured.

    Args:
        secrets: {function: the secret, as hex, by which the cache's shards know it}.

    Raises:
        NotDeployed: they are missing, half made, not the cache's own, or not as configured.
        DeployError: the platform refused, or cannot be reached.
    """
    states = read_functions(control_client(endpoint_url, config.platform.region), scope_of(config), secrets)
    has_other = any(state.environment.get(SECRET) != secrets[name] for name, state in states.items() if state.is_ours)
    _require(config, secrets, states, _LEFT_BEHIND if has_other else _DEPLOY)


def _require(
    config: Config, secrets: Mapping[str, str | None], states: Mapping[str, FunctionState], advice: str
) -> None:
    troubles = list(_troubles(config, secrets, states))
    if troubles:
        more = f" and {len(troubles) - _SHOWN} more" if len(troubles) > _SHOWN else ""
        raise NotDeployed(
            operation="up",
            function=f"functions of cache {config.name!r} in {config.platform.region}",
            detail=", ".join(troubles[:_SHOWN]) + more,
            advice=advice,
        )


def _are_mixed(states: Iterable[FunctionState]) -> bool:
    return len({state.environment.get(SECRET) for state in states if state.is_ours}) > 1


def _troubles(config: Config, secrets: Mapping[str, str | None], states: Mapping[str, FunctionState]) -> Iterator[str]:
    for name, secret in secrets.items():
        state = states.get(name)
        if state is None:
            yield f"{name} is missing"
        elif not state.is_ours:
            yield f"{name} does not bear this cache's tags"
        elif state.configuration.get("State") not in ("Active", "Inactive"):
            yield f"{name} is {state.configuration.get('State')}"
        elif state.configuration.get("MemorySize") != config.pool.memory_mb:
            yield f"{name} has {state.configuration.get('MemorySize')} MB, configured are {config.pool.memory_mb}"
        elif not state.environment.get(SECRET) or state.environment[SECRET] != secret:
            yield f"{name} has another secret"
