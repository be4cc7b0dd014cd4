"""A running Ray cluster: joining it as a driver, and how many workers of one size its nodes could hold."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from launch.terminal import Terminal, tell
from storage_layouts.errors import InputError

ANSWER_SECONDS = 5.0
GONE_SECONDS = 20.0
"""So long a cluster may be silent, as while its head is started again: Ray gives up after 60 s, with words of C++."""
LOOK_SECONDS = 3.0


@dataclass(frozen=True)
class WorkerSize:
    """What Ray sets aside for one worker.

    Attributes:
        cpus: above 0.
        gpus: 0, a fraction of one GPU, or a whole number.

    """

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU and {self.gpus:g} GPU"

    def times_in(self, node: WorkerSize) -> int:
        """How often it fits into a node. A fraction of a GPU has to come from one GPU."""
        by_cpus = math.floor(node.cpus / self.cpus)
        if not self.gpus:
            return by_cpus
        by_gpus = node.gpus * math.floor(1 / self.gpus + 1e-9) if self.gpus < 1 else node.gpus / self.gpus
        return min(by_cpus, math.floor(by_gpus))


class Connection:
    """Makes this process a driver of the cluster, until `close`. InputError with Ray's words if Ray will not."""

    def __init__(self, address: str) -> None:
        import ray

        self.address = address
        self._left = threading.Event()
        self._sigterm: Any = None
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # whatever it is: this process cannot use that cluster
            raise InputError(f"the Ray cluster at {address}: {one_line(error)}") from None
        threading.Thread(target=leave_when_gone, args=(address, self._left), daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            # `ray job stop` sends SIGTERM: leave as with Ctrl-C, without the stack that Ray's own handler prints.
            self._sigterm = before
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def close(self) -> None:
        """Leave the cluster. Every actor of this process gets SIGTERM, so that it can give its shards back."""
        import ray

        ray.shutdown()
        self._left.set()
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)

    def room_for(self, worker: WorkerSize) -> int:
        """How many workers the cluster holds if nobody else is there."""
        return sum(worker.times_in(node) for node in self._nodes())

    def no_room_for(self, worker: WorkerSize) -> str:
        """That no node is large enough for one worker, and what to do."""
        largest = max(self._nodes(), key=lambda node: (min(node.gpus, worker.gpus), node.cpus))
        remedy = "fewer --gpus-per-worker, or --device cpu" if largest.gpus < worker.gpus else "fewer --cpus-per-worker"
        return (
            f"the Ray cluster at {self.address} has no node for a worker of {worker}, the largest has {largest}; "
            f"expected {remedy} (or --ray-grows if the cluster adds nodes on demand)"
        )

    def free(self) -> WorkerSize:
        """What nobody uses at the moment, all nodes together."""
        import ray

        free = ray.available_resources()
        return WorkerSize(free.get("CPU", 0), free.get("GPU", 0))

    def _nodes(self) -> list[WorkerSize]:
        import ray

        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [WorkerSize(found.get("CPU", 0), found.get("GPU", 0)) for found in resources]


def connect(address: str | None) -> Connection:
    """Join a running cluster: at `address`, or where RAY_ADDRESS says. InputError if none is there."""
    return Connection(probe(address))


def probe(address: str | None) -> str:
    """The address of a running cluster: `address`, or what RAY_ADDRESS says.

    Raises InputError within seconds if none is there; Ray itself would try for minutes.
    """
    flag = "--ray-address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise InputError(
            "--cluster ray: which cluster? Expected --ray-address HOST:PORT (`ray start --head` prints it), "
            "RAY_ADDRESS, or a command that was started with `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise InputError(f"{flag} {address}: expected HOST:PORT, as `ray start --head` prints it")
    try:
        _knock(address)
    except (OSError, OverflowError) as error:
        raise InputError(f"{flag} {address}: no Ray cluster answers there ({error}); is it running?") from None
    if not os.environ.get("RAY_USE_TLS") and not _speaks_grpc(address):
        raise InputError(
            f"{flag} {address}: something answers there, but not a Ray cluster; expected the port that "
            "`ray start --head` prints (the dashboard's is another)"
        )
    return address


def leave_when_gone(
    address: str, left: threading.Event, patience: float = GONE_SECONDS, pause: float = LOOK_SECONDS
) -> None:
    """End this process, with one line and exit code 2, when a cluster has not answered for `patience` seconds.

    At once and from a thread of its own: Ray's calls may wait for ever in a cluster without a head. Nothing is lost,
    since workers alone write shards. Returns when `left` is set.
    """
    heard = time.monotonic()
    while not left.wait(pause):
        try:
            _knock(address)
            heard = time.monotonic()
        except OSError:
            if time.monotonic() - heard > patience:
                terminal = Terminal(stderr=True)
                terminal.show_cursor()  # a progress bar has hidden it
                tell(f"error: the Ray cluster at {address} is gone; start it and repeat the command", style="red")
                os._exit(2)


def _knock(address: str) -> None:
    """OSError if nothing listens at an address."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


def _speaks_grpc(address: str) -> bool:
    import grpc  # type: ignore[import-untyped]

    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    try:
        grpc.channel_ready_future(channel).result(ANSWER_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


def one_line(error: Exception, length: int = 400) -> str:
    """The words of an error of Ray, which likes to fill a screen, in one line."""
    text = " ".join(str(getattr(error, "cause", None) or error).split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + " ..."


def note(message: str) -> None:
    """Tell the user something on standard error."""
    tell(f"ray: {message}")
