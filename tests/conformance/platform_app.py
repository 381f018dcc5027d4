"""The functions that the platform's tests deploy: this file is their deployment package."""

import json
import os
import socket
import struct
import subprocess
import sys
import time

N_CALLS = 0
SO_MAX_PACING_RATE = 47


def echo(event, context):
    return event


def count(event, context):
    """Which call of this instance it is."""
    global N_CALLS
    N_CALLS += 1
    return {"pid": os.getpid(), "calls": N_CALLS}


def describe(event, context):
    """What a function can see of itself."""
    return {
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "descriptors": {
            n: os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")
        },
        "infiniray": "infiniray" in sys.modules,
        "group": os.getpgid(0) == os.getpid(),
        "name": context.function_name,
        "memory": context.memory_limit_in_mb,
        "arn": context.invoked_function_arn,
        "request": context.aws_request_id,
        "left_ms": context.get_remaining_time_in_millis(),
    }


def say(event, context):
    print(event["text"], flush=True)
    print(event["text"].upper(), file=sys.stderr)


def fail(event, context):
    raise ValueError("no good")


def leave(event, context):
    os._exit(event["status"])


def end_by_signal(event, context):
    os.kill(os.getpid(), event["signal"])
    time.sleep(60)


def too_long(event, context):
    time.sleep(60)


def grow(event, context):
    held = []
    while True:
        held.append(b"x" * (4 << 20))


def big(event, context):
    return "x" * event["bytes"]


def _to_gate(event):
    connection = socket.create_connection(("127.0.0.1", event["gate"]))
    connection.sendall(json.dumps({"pid": os.getpid()}).encode().ljust(64))
    return connection


def held(event, context):
    """Runs until the gate sends a byte, or hangs up."""
    with _to_gate(event) as connection:
        return {"pid": os.getpid(), "heard": connection.recv(1).decode()}


KEPT = []


def keep(event, context):
    """Leaves a connection to the gate open, frozen with the instance."""
    KEPT.append(_to_gate(event))


def stream(event, context):
    """Sends to the gate until it hangs up."""
    with _to_gate(event) as connection:
        data = bytes(1 << 16)
        try:
            while True:
                connection.sendall(data)
        except OSError:
            return "gate closed"


def pacing(event, context):
    """Sends ``bytes`` to the gate; the pacing rates that its socket gets, in their order, until the last awaited.

    With ``via`` it must have that rate before, and calls the gate again when it does.
    """
    seen, via = [], event.get("via")
    with _to_gate(event) as connection:
        connection.sendall(bytes(event["bytes"]))
        while via or not seen or seen[-1] != event["until"]:
            rate = struct.unpack("=Q", connection.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0]
            if not seen or seen[-1] != rate:
                seen.append(rate)
            if rate == via:
                via = None
                _to_gate(event).close()
            time.sleep(0.002)
    return seen


def family(event, context):
    """Leaves a process in its group, one in a session of its own, and a daemon behind; the gate holds it if it asks."""
    pids = [subprocess.Popen(["sleep", "600"]).pid, subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        daemon = os.fork()
        if daemon == 0:
            time.sleep(600)
        os.write(write, str(daemon).encode())
        os._exit(0)
    pids.append(int(os.read(read, 16)))
    os.wait()
    if "gate" in event:
        held(event, context)
    return pids


def spawn(event, context):
    """Leaves a process of its own behind."""
    return subprocess.Popen(["sleep", "600"]).pid
