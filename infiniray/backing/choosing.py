"""Which store a handle works with: the one that its user names, or else the one that the cache was started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from infiniray.backing.records import RayRecords
from infiniray.config import BackingConfig, Config
from infiniray.errors import ConfigError

__all__ = ["as_section", "chosen", "record", "recorded"]

_RECORD = "config"


def as_section(given: BackingConfig | Mapping[str, Any] | str | None, mode: str | None) -> dict[str, Any]:
    """The section ``backing`` of a configuration that the arguments of :func:`infiniray.start` describe."""
    if isinstance(given, BackingConfig):
        section: dict[str, Any] = given.model_dump(exclude_unset=True)
    else:
        section = {"url": given} if isinstance(given, str) else dict(given or {})
    return section if mode is None else {**section, "mode": mode}


def chosen(
    cache: str, given: BackingConfig | Mapping[str, Any] | str | Literal[False] | None, mode: str | None
) -> BackingConfig | None:
    """What the arguments of :func:`infiniray.connect` describe.

    Raises:
        ConfigError: it is not valid, or there is a mode and no store.
    """
    if given is False:
        base: dict[str, Any] | None = None
    elif given is None:
        known = recorded(cache)
        base = None if known is None else known.model_dump(exclude_unset=True)
    else:
        base = as_section(given, None)
    if base is None:
        if mode is not None:
            raise ConfigError(detail=f"mode={mode!r}: cache {cache!r} has no store behind it: give backing= as well")
        return None
    config = Config.load(None, {"backing": as_section(base, mode)}, environ={}).backing
    if config.url is None:
        raise ConfigError(detail="backing.url: a store has a URL, as s3://BUCKET/PREFIX, or a directory")
    return config


def record(cache: str, config: BackingConfig) -> None:
    """Let those who connect to ``cache`` find the store that it was started with."""
    if config.url is not None:
        RayRecords(cache).put(_RECORD, config.model_dump_json(exclude_unset=True))


def recorded(cache: str) -> BackingConfig | None:
    """What was recorded for ``cache``."""
    text = RayRecords(cache).get(_RECORD)
    return None if text is None else BackingConfig.model_validate_json(text)
