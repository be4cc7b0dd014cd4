"""A running Ray cluster: joining it as a driver, and the number of workers of one size that fit into its nodes."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from launch.terminal import Terminal, print_err
from storage_layouts.errors import InputError

ANSWER_SECONDS = 5.0
GONE_SECONDS = 20.0
"""How long a cluster may not answer, as while its head restarts. Ray itself fails after 60 s, with a C++ stack."""
LOOK_SECONDS = 3.0


@dataclass(frozen=True)
class WorkerSize:
    """The resources that Ray reserves for one worker.

    Attributes:
        cpus: above 0.
        gpus: 0, a fraction of one GPU, or a whole number.

    """

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU and {self.gpus:g} GPU"

    def times_in(self, node: WorkerSize) -> int:
        """Returns how often it fits into a node. A fraction of a GPU must come from one GPU."""
        by_cpus = math.floor(node.cpus / self.cpus)
        if not self.gpus:
            return by_cpus
        by_gpus = node.gpus * math.floor(1 / self.gpus + 1e-9) if self.gpus < 1 else node.gpus / self.gpus
        return min(by_cpus, math.floor(by_gpus))


class Connection:
    """Makes this process a driver of the cluster until `close`. Raises InputError with the message of Ray."""

    def __init__(self, address: str) -> None:
        import ray

        self.address = address
        self._left = threading.Event()
        self._sigterm: Any = None
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # of any type; this process cannot use the cluster
            raise InputError(f"the Ray cluster at {address}: {one_line(error)}") from None
        threading.Thread(target=leave_when_gone, args=(address, self._left), daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            # `ray job stop` sends SIGTERM: end as without Ray, or as with Ctrl-C, but not with Ray's stack trace.
            self._sigterm = before
            signal.signal(signal.SIGTERM, before if callable(before) else signal.default_int_handler)

    def close(self) -> None:
        """Leave the cluster. Every actor of this process gets SIGTERM, and releases its shards."""
        import ray

        ray.shutdown()
        self._left.set()
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)

    def room_for(self, worker: WorkerSize) -> int:
        """Returns the number of workers that fit into the idle cluster."""
        return sum(worker.times_in(node) for node in self._nodes())

    def no_room_for(self, worker: WorkerSize) -> str:
        """Returns the message that no node is large enough for one worker."""
        largest = max(self._nodes(), key=lambda node: (min(node.gpus, worker.gpus), node.cpus))
        remedy = "fewer --gpus-per-worker, or --device cpu" if largest.gpus < worker.gpus else "fewer --cpus-per-worker"
        return (
            f"the Ray cluster at {self.address} has no node for a worker of {worker}, the largest has {largest}; "
            f"expected {remedy} (or --ray-grows if the cluster adds nodes on demand)"
        )

    def free(self) -> WorkerSize:
        """Returns the free resources of all nodes together."""
        import ray

        free = ray.available_resources()
        return WorkerSize(free.get("CPU", 0), free.get("GPU", 0))

    def _nodes(self) -> list[WorkerSize]:
        import ray

        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [WorkerSize(found.get("CPU", 0), found.get("GPU", 0)) for found in resources]


def connect(address: str | None) -> Connection:
    """Join the running cluster at `address` or RAY_ADDRESS. Raises InputError if there is none."""
    return Connection(probe(address))


def probe(address: str | None) -> str:
    """Returns the address of a running cluster: `address`, or that in RAY_ADDRESS.

    Raises InputError within seconds if there is none; Ray itself would retry for minutes.
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
        _open_socket(address)
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
    """Exit the process with one line and exit code 2 when a cluster has not answered for `patience` seconds.

    Runs in a separate thread, since calls of Ray may block for ever without a head. No data is lost, since only workers
    write shards. Returns when `left` is set.

    Args:
        address: HOST:PORT of the cluster.
        left: set by the main thread when it leaves the cluster.
        patience: seconds.
        pause: seconds between two checks.

    """
    last_answer = time.monotonic()
    while not left.wait(pause):
        try:
            _open_socket(address)
            last_answer = time.monotonic()
        except OSError:
            if time.monotonic() - last_answer > patience:
                terminal = Terminal(stderr=True)
                terminal.show_cursor()  # a progress bar has hidden it
                print_err(f"error: the Ray cluster at {address} is gone; start it and repeat the command", style="red")
                os._exit(2)


def _open_socket(address: str) -> None:
    """Raises OSError if no server listens at an address."""
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
    """Returns the message of an error of Ray, which may have many lines, as one line."""
    text = " ".join(str(getattr(error, "cause", None) or error).split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + " ..."


def note(message: str) -> None:
    """Print a message on standard error."""
    print_err(f"ray: {message}")
