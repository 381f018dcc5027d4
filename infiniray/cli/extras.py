"""Commands that need more than the package's own dependencies."""

from __future__ import annotations

import importlib.util

from infiniray.errors import ConfigError

__all__ = ["need_extra"]

#: {extra of the package: a module of each of its distributions}
_MODULES = {"workloads": ("pyarrow", "matplotlib")}


def need_extra(extra: str) -> None:
    """Say what to install, where something is lacking.

    Raises:
        ConfigError: a module is not there.
    """
    lacking = [module for module in _MODULES[extra] if importlib.util.find_spec(module) is None]
    if lacking:
        raise ConfigError(detail=f"this needs {' and '.join(lacking)}: pip install 'infiniray[{extra}]'")
