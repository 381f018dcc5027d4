"""The decorators behind ``cache.memoize``: which key a call has."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from infiniray.errors import ConfigError, InvalidKey

__all__ = ["KeyOf", "memoized", "memoized_async"]

P = ParamSpec("P")
T = TypeVar("T")

#: Makes the key of a call of its arguments.
KeyOf = Callable[..., str]
#: ``repr`` of these is the same in every process.
_PLAIN = (type(None), bool, int, float, str, bytes)


def memoized(
    through: Callable[[str, Callable[[], Any]], Any], key: KeyOf | None
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """``through(key, fn)`` gets the value under a key, or computes it."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if inspect.iscoroutinefunction(function):
            raise ConfigError(detail=f"{function.__qualname__} is asynchronous: decorate it with cache.aio.memoize")
        key_of = key or _key_of(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            value: T = through(key_of(*args, **kwargs), functools.partial(function, *args, **kwargs))
            return value

        call.key = key_of  # type: ignore[attr-defined]
        return call

    return decorate


def memoized_async(
    through: Callable[[str, Callable[[], Any]], Awaitable[Any]], key: KeyOf | None
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """As :func:`memoized`, of functions to be awaited."""

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        key_of = key or _key_of(function)

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            value: T = await through(key_of(*args, **kwargs), functools.partial(function, *args, **kwargs))
            return value

        call.key = key_of  # type: ignore[attr-defined]
        return call

    return decorate


def _key_of(function: Callable[..., Any]) -> KeyOf:
    """Keys of a function's calls: its name for people to read, and a digest of its arguments, as they are bound."""
    signature = inspect.signature(function)
    name = f"{function.__module__}.{function.__qualname__}"

    def key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = []
        for parameter, value in bound.arguments.items():
            is_rest = signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD
            values = sorted(value.items()) if is_rest else value
            arguments.append((parameter, _plain(tuple(values) if is_rest else values, name)))
        return f"{name}:{hashlib.blake2b(repr(arguments).encode(), digest_size=16).hexdigest()}"

    return key


def _plain(value: Any, name: str) -> Any:
    """``value``, if it has one text only.

    Raises:
        InvalidKey: it may have another in another process.
    """
    if type(value) is tuple:
        return tuple(_plain(part, name) for part in value)
    if type(value) not in _PLAIN:
        detail = f"no key can be made of the {type(value).__name__} that {name} was called with: give memoize(key=...)"
        raise InvalidKey(detail=detail)
    return value
