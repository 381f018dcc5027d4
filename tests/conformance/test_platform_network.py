"""The network of instances: cut and healed, silent deaths, pacing."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from platform_harness import Gate, Lambda, is_alive, wait_until

from infiniray.errors import PlatformError

MB = 1 << 20
QUIET_S = 0.5


def drain(connection: socket.socket) -> int:
    """Read until nothing has come for a while; how many bytes. It must not end."""
    n_bytes = 0
    connection.settimeout(QUIET_S)
    try:
        while data := connection.recv(MB):
            n_bytes += len(data)
    except TimeoutError:
        return n_bytes
    raise AssertionError("the connection ended")


def receive(connection: socket.socket, n_bytes: int) -> None:
    connection.settimeout(20)
    while n_bytes > 0:
        data = connection.recv(min(MB, n_bytes))
        assert data, "the connection ended"
        n_bytes -= len(data)


def test_a_cut_connection_falls_silent_and_heals(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("stream")
    call = functions.background(functions.call, name, gate.event)
    connection = gate.wait()
    receive(connection, 10 * MB)
    assert functions.admin.cut(name) == 1
    drain(connection)  # it comes to its end: what was under way
    connection.sendall(b"is anybody there")
    assert drain(connection) == 0
    functions.admin.heal(name)
    receive(connection, 10 * MB)
    functions.admin.reclaim(function=name)
    with pytest.raises(AssertionError, match="signal: killed"):
        call.result(20)


def test_connections_made_while_it_is_cut_are_cut_too(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("stream")
    functions.admin.cut(name)
    call = functions.background(functions.call, name, gate.event)
    connection = gate.wait()
    drain(connection)  # what it sent before the platform noticed the connection
    assert functions.instance(name)["state"] == "busy"
    functions.admin.heal(name)
    receive(connection, 10 * MB)
    connection.close()
    assert call.result(20) == "gate closed"


def test_a_frozen_connection_is_cut_in_silence(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("keep")
    functions.call(name, gate.event)
    connection = gate.wait()
    receive(connection, 64)
    assert functions.admin.cut(name) == 1
    connection.sendall(b"x")
    assert drain(connection) == 0
    functions.admin.heal(name)


def test_the_peer_of_a_reclaimed_instance_sees_the_end(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("keep")
    functions.call(name, gate.event)
    connection = gate.wait()
    receive(connection, 64)
    assert functions.admin.reclaim(function=name)["silent"] == 0
    assert connection.recv(1) == b""


def test_the_peer_of_a_silently_reclaimed_instance_sees_nothing(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("keep")
    functions.call(name, gate.event)
    connection = gate.wait()
    receive(connection, 64)
    pid = functions.instance(name)["pid"]
    assert functions.admin.reclaim(function=name, silent=True)["silent"] == 1
    wait_until(lambda: not is_alive(pid))
    assert drain(connection) == 0  # no FIN
    connection.sendall(b"is anybody there")
    assert drain(connection) == 0  # no RST


def test_reclaim_policies_can_be_silent(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda(idle_timeout_s=0.1, silent_reclaims=True)
    functions.call(functions.deploy("keep"), gate.event)
    connection = gate.wait()
    receive(connection, 64)
    wait_until(lambda: functions.admin.stats()["reclaimed"] == 1)
    assert drain(connection) == 0


def test_bandwidth_is_a_bucket_at_one_rate_and_the_rest_at_another(
    own_lambda: Callable[..., Lambda], gate: Gate
) -> None:
    shape = {"bucket_bytes": 4 * MB, "burst_bytes_per_s": 200 * MB, "sustained_bytes_per_s": 40 * MB, "quiet_s": 30}
    functions = own_lambda(bandwidth=shape)
    name = functions.deploy("pacing")
    call = functions.background(functions.call, name, {**gate.event, "bytes": 20 * MB, "until": 40 * MB})
    receive(gate.wait(), 64 + 20 * MB)
    rates = call.result(20)
    assert rates[-1] == 40 * MB
    assert set(rates[:-1]) <= {2**64 - 1, 2**32 - 1, 200 * MB}


def test_a_slowed_function_has_a_fraction(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("pacing")
    functions.admin.slow(name, 64)
    call = functions.background(functions.call, name, {**gate.event, "bytes": 1, "until": (1 << 30) // 64})
    assert call.result(20)[-1] == 16 * MB
    functions.admin.heal(name)
    call = functions.background(functions.call, name, {**gate.event, "bytes": 1, "until": 2**64 - 1})
    assert call.result(20) == [2**64 - 1]


def test_healing_ends_the_pacing_of_what_is_open(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("pacing")
    functions.admin.slow(name, 64)
    call = functions.background(functions.call, name, {**gate.event, "bytes": 1, "until": 2**64 - 1, "via": 16 * MB})
    receive(gate.wait(), 64 + 1)
    gate.wait()  # it has seen the slow rate
    functions.admin.heal(name)
    assert call.result(20)[-2:] == [16 * MB, 2**64 - 1]


def test_there_is_no_network_of_an_unknown_function(functions: Lambda) -> None:
    with pytest.raises(PlatformError, match="not found"):
        functions.admin.cut("nobody")


def test_without_a_shape_nothing_is_paced(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("pacing")
    call = functions.background(functions.call, name, {**gate.event, "bytes": MB, "until": 2**64 - 1})
    receive(gate.wait(), 64 + MB)
    assert call.result(20) == [2**64 - 1]
