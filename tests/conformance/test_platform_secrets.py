"""Where the pool's secret may be seen: in its functions' settings, and nowhere else that a cache writes or sends."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from platform_harness import Lambda

from infiniray.cluster.assembly import assemble
from infiniray.cluster.checkpoint import Checkpoint
from infiniray.cluster.functions import FunctionPool
from infiniray.cluster.membership import Membership, plan
from infiniray.codec.coder import Coder
from infiniray.config import Config
from infiniray.core import draining
from infiniray.core.ids import NodeId
from infiniray.errors import InfiniRayError
from infiniray.faas.deploy.renew import renew_secret
from infiniray.faas.deploy.resources import SECRET
from infiniray.faas.invoker import FunctionInvoker, InvokeResult
from infiniray.runtime import certificates
from infiniray.runtime.driver import ShardDriver
from infiniray.wire.auth import key_id

DEADLINE_S = 20.0
DATA = np.arange(300_000, dtype=np.uint8)


class LoopCoder:
    """The arithmetic, right where it is asked for."""

    def __init__(self) -> None:
        self._coder = Coder()

    async def encode(self, scheme: Any, data: Any) -> list[Any]:
        return list(self._coder.encode(scheme, data))

    async def reconstruct(self, scheme: Any, object_bytes: int, present: Any, wanted: Any) -> None:
        self._coder.reconstruct(scheme, object_bytes, present, wanted)


class Spy:
    """What was said to functions, and what they answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.payloads: list[bytes] = []
        self.answers: list[bytes] = []
        invoke = FunctionInvoker.invoke

        async def overheard(
            invoker: FunctionInvoker, function: str, payload: bytes, *, timeout_s: float
        ) -> InvokeResult:
            self.payloads.append(payload)
            result = await invoke(invoker, function, payload, timeout_s=timeout_s)
            self.answers.append(result.payload)
            return result

        monkeypatch.setattr(FunctionInvoker, "invoke", overheard)


class Pool:
    """A shard and its functions on a platform of their own, without Ray."""

    def __init__(
        self, functions: Lambda, secret: bytes, *, n_nodes: int = 1, scheme: str = "stripe:1", tls: bool = False
    ) -> None:
        self.functions, self.secret = functions, secret
        self.config = Config(
            name="secretive",
            pool={"nodes": n_nodes, "memory_mb": 256},
            redundancy=[{"scheme": scheme}],
            ring={"shards": 1},
            platform={"kind": "local"},
            session={"tls": tls},
        )
        self.members: Membership = plan(self.config)
        self.endpoint = functions.platform.endpoint
        self.deploy(self.members.all_nodes, secret)

    def deploy(self, nodes: Iterable[NodeId], secret: bytes) -> None:
        """Make functions, or change the secret in their settings."""
        FunctionPool(self.config, nodes, secret=secret.hex(), endpoint_url=self.endpoint).ensure()

    def instances(self, node: NodeId) -> set[str]:
        return {instance["id"] for instance in self.functions.admin.instances(node)}

    def driver(self, secret: bytes | None = None) -> ShardDriver:
        (shard,) = self.members.shards
        return assemble(self.members, shard, self.config, secret or self.secret, self.endpoint, LoopCoder())


def spellings(secret: bytes) -> dict[str, bytes]:
    """The ways in which it could be written somewhere; of base64, what does not depend on where it begins."""
    shifted = [base64.b64encode(bytes(pad) + secret)[4:-4] for pad in range(3)]
    texts = {"raw": secret, "repr": repr(secret)[2:-1].encode(), "hex": secret.hex().encode()}
    texts |= {"half": secret.hex()[:32].encode(), "HEX": secret.hex().upper().encode(), "ints": str([*secret]).encode()}
    return texts | {f"base64+{pad}": text for pad, text in enumerate(shifted)}


def assert_absent(secret: bytes, where: dict[str, bytes]) -> None:
    """Says where it was found, and not what."""
    found = [(place, how) for place, said in where.items() for how, text in spellings(secret).items() if text in said]
    assert not found


def test_the_search_finds_what_it_looks_for() -> None:
    secret = secrets.token_bytes(32)
    hidden = {
        "hex": secret.hex(), "repr": repr(secret), "json": json.dumps([*secret]),
        "base64": base64.b64encode(b"ab" + secret + b"tail").decode(),
    }  # fmt: skip
    for place, text in hidden.items():
        with pytest.raises(AssertionError, match=place):
            assert_absent(secret, {place: f"before {text} after".encode()})
    with pytest.raises(AssertionError, match="raw"):
        assert_absent(secret, {"raw": b"x" + secret})


@pytest.fixture
def alone(own_lambda: Callable[..., Lambda], caplog: pytest.LogCaptureFixture) -> Pool:
    caplog.set_level(logging.DEBUG)
    return Pool(own_lambda(), secrets.token_bytes(32))


def platform_files(tmp_path: Path) -> dict[str, bytes]:
    """Everything that the platform keeps on disk: its log, the functions' code, the bill."""
    files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(name.endswith("platform.log") for name in files)
    return files


class KeySpy:
    """The private keys of the certificates that are made: 32 bytes each, as everything else here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[bytes] = []
        load = certificates._load

        def overheard(context: Any, certificate: Any, key: Any) -> None:
            self.keys.append(key.private_numbers().private_value.to_bytes(32, "big"))
            load(context, certificate, key)

        monkeypatch.setattr(certificates, "_load", overheard)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_a_working_cache_shows_its_secrets_nowhere(
    own_lambda: Callable[..., Lambda],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tls: bool,
) -> None:
    """With every logger of the process at its most talkative, while its secret is changed: neither the former nor the
    new one, nor its certificate's key."""
    caplog.set_level(logging.DEBUG)
    alone, new = Pool(own_lambda(), secrets.token_bytes(32), tls=tls), secrets.token_bytes(32)
    (name,) = alone.members.all_nodes
    spy, kept, driver = Spy(monkeypatch), KeySpy(monkeypatch), alone.driver()
    await driver.start()
    try:
        for key, step in (("k", None), ("l", driver.keys.rotated(new))):
            if step is not None:
                driver.change_keys(step)
                await asyncio.to_thread(
                    renew_secret, alone.config, [name], secret=new.hex(), endpoint_url=alone.endpoint
                )
            await driver.put(key, "head", DATA, expires_s=None, timeout_s=DEADLINE_S)
            _, read = await driver.get(key, timeout_s=DEADLINE_S)
            assert bytes(read) == bytes(DATA)
        checkpoint = Checkpoint(membership=alone.members, keys=driver.keys)
        stats = repr((driver.stats(), driver.state, driver, driver._listener, driver._sessions))
        assert key_id(new) in driver.keys_in_use()
    finally:
        await driver.close()
    tail = alone.functions.boto.invoke(FunctionName=name, Payload=b'{"reason": "no such"}', LogType="Tail")
    said, streams = base64.b64decode(tail["LogResult"]), capfd.readouterr()
    assert b"InvalidInvocation" in said  # this is the function's stderr, with what it fails of
    assert spy.payloads
    assert spy.answers
    assert caplog.text
    assert len(kept.keys) == tls
    instances = json.dumps(alone.functions.admin.instances(name)).encode()
    settings = alone.functions.boto.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    assert settings[SECRET] == new.hex()  # where it is, and has to be
    where = {
        "payloads": b"\n".join(spy.payloads),
        "answers": b"\n".join(spy.answers),
        "logs": caplog.text.encode(),
        "stats": stats.encode(),
        "membership": pickle.dumps(alone.members) + repr(alone.members).encode(),
        "checkpoint": f"{checkpoint!r} {checkpoint} {checkpoint.keys!r}".encode(),
        "function's stderr": said,
        "function's error": tail["Payload"].read(),
        "stdout and stderr": (streams.out + streams.err).encode(),
        "platform's admin": instances + json.dumps(alone.functions.admin.stats()).encode(),
        **platform_files(tmp_path),
    }
    for secret in (alone.secret, new, *kept.keys):
        assert_absent(secret, where)
    for key in kept.keys:  # in Ray's control store is the secret, and has to be; the key is not
        assert_absent(key, {"control store": pickle.dumps(checkpoint)})


async def test_a_refused_shard_says_nothing_of_either_secret(
    alone: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A shard and a function that do not share one: both errors are what people paste into tickets."""
    spy, other = Spy(monkeypatch), secrets.token_bytes(32)
    driver = alone.driver(other)
    await driver.start()
    try:
        with pytest.raises(InfiniRayError) as caught:
            await driver.put("k", "head", DATA, expires_s=None, timeout_s=2.0)
    finally:
        await driver.close()
    assert any(b"InvalidInvocation" in answer for answer in spy.answers)
    assert re.search(rb"proof", b"".join(spy.answers))
    error = f"{caught.value!r} {caught.value} {caught.value.__dict__}".encode() + pickle.dumps(caught.value)
    for secret in (alone.secret, other):
        assert_absent(
            secret,
            {"error": error, "payloads": b"".join(spy.payloads), "answers": b"".join(spy.answers),
             "logs": caplog.text.encode()},
        )  # fmt: skip


async def test_new_settings_replace_instances_and_yet_a_new_secret_loses_nothing(
    own_lambda: Callable[..., Lambda], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One function after the other: emptied, then changed, then taken back. No chunk can be done without here."""
    monkeypatch.setattr(draining, "LOOK_S", 0.01)
    former, new = secrets.token_bytes(32), secrets.token_bytes(32)
    pool = Pool(own_lambda(), former, n_nodes=3, scheme="stripe:2")
    everyone = dict.fromkeys(pool.members.all_nodes, pool.config.pool.node_bytes)
    driver, n_replaced = pool.driver(), 0
    await driver.start()
    try:
        await driver.put("k", "head", DATA, expires_s=None, timeout_s=DEADLINE_S)
        driver.change_keys(driver.keys.rotated(new))
        for node in everyone:
            before = pool.instances(node)
            driver.change_pool({other: size for other, size in everyone.items() if other != node})
            await _until(lambda node=node: node not in driver.state.nodes)  # type: ignore[misc]
            await asyncio.to_thread(pool.deploy, [node], new)
            driver.change_pool(everyone)
            _, read = await driver.get("k", timeout_s=DEADLINE_S)
            assert bytes(read) == bytes(DATA)
            assert not before & pool.instances(node)
            n_replaced += len(before)
        assert n_replaced >= 2
        driver.change_keys(driver.keys.retired())
        _, read = await driver.get("k", timeout_s=DEADLINE_S)
        assert bytes(read) == bytes(DATA)
        assert set(driver.keys_in_use()) == {key_id(new)}
        assert driver.stats()["resets"] == 0
    finally:
        await driver.close()


async def _until(is_true: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not is_true():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), DEADLINE_S)
