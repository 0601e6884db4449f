"""Jobs on a Ray cluster, or on a Ray that starts on this machine: Ray Data's `map_batches`."""

from __future__ import annotations

import io
import logging
import os
import pickle
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import FastsegError, ModelError, brief
from ..utils.text import counted
from ..utils.threads import cores, limit_threads
from .base import MOST_DEATHS, Engine, Work, worker_died

log = logging.getLogger(__name__)

PORT, CLIENT_PORT = 6379, 10001  # Ray's defaults
CLIENT = "ray://"
FRAME_HEADER, SETTINGS = 9, 4  # bytes of an HTTP/2 frame's header; the type of that frame
SECONDS_TO_CONNECT = 5.0  # until a port that does not answer counts as unreachable
# Jobs of one execution of Ray Data. Their descriptions are in its object store; a new execution
# starts new workers, which takes some seconds.
MOST_JOBS, MOST_BYTES = 2_000, 256 * 2**20
Numbered = tuple[int, Any]


@dataclass(frozen=True)
class Failure:
    """The result of a job that raised an error."""

    error: Exception


class RayEngine(Engine):
    """Workers are actors of Ray, each with its share of a machine's cores and `num_gpus` GPUs.

    Without `address`, Ray starts on this machine and ends with the engine.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, address: str | None = None, num_gpus: float = 0):
        if find_spec("ray") is None or find_spec("pyarrow") is None:
            raise _no_ray()
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.num_gpus = num_gpus
        self.workers = workers or 0  # 0 until the cluster has said how many cores it has

    def __enter__(self) -> RayEngine:
        began = time.monotonic()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        # Its parts of C++ write lines to standard error that users cannot act on.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise _no_ray(brief(error)) from None

        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._owns = not ray.is_initialized()
        if self._owns:
            with _quiet(), _no_stderr():
                self._connect(ray)
        try:
            self._nodes = [node for node in ray.nodes() if node["Alive"]]
            total = int(ray.cluster_resources().get("CPU", 0))
            most = max(int(node["Resources"].get("CPU", 0)) for node in self._nodes)
            self.workers = self.workers or max(1, total)
            self.threads = max(1, min(most, total // self.workers))
            self._require_gpus(ray)
            self._require_same_fastseg()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        log.info(
            "ray: %s, %s, %s with %s each; started in %.1f s%s",
            counted(len(self._nodes), "node"),
            counted(total, "core"),
            counted(self.workers, "worker"),
            counted(self.threads, "thread"),
            time.monotonic() - began,
            "; on one machine, --engine local is quicker" if len(self._nodes) == 1 else "",
        )
        return self

    def _connect(self, ray: Any) -> None:
        options = {"logging_level": logging.CRITICAL, "log_to_driver": False}
        if self.address is None:
            ray.init("local", num_cpus=cores(), include_dashboard=False, **options)
            return
        _require_reachable(self.address)
        try:
            ray.init(self.address, **options)
        except ray.exceptions.AuthenticationError:
            raise _token_needed(self.address) from None
        except ConnectionError as error:
            if self.address == "auto":
                raise _unreachable(self.address, error) from None
            raise _token_needed(self.address) from None
        except RuntimeError as error:
            if "mismatch" not in str(error).lower():
                raise _unreachable(self.address, error) from None
            raise ModelError(
                f"{self.address}: the cluster has another version of Ray or Python than this "
                f"machine (Ray {ray.__version__} here): {brief(error)}; install the same ones",
                "cluster-version",
            ) from None

    def _require_gpus(self, ray: Any) -> None:
        there = ray.cluster_resources().get("GPU", 0)
        if self.num_gpus > there:
            raise ModelError(
                f"--num-gpus {self.num_gpus:g}: the cluster has {there:g} GPUs; give fewer",
                "no-gpus",
            )

    def _require_same_fastseg(self) -> None:
        """Raise `ModelError` if a node has no fastseg, or another version than this one."""
        for name, version in self._ask_nodes(_version_question(), None):
            if version != __version__:
                found = f"has fastseg {version}" if version else "has no fastseg"
                raise ModelError(
                    f"node {name} of the cluster {found}, and this machine has {__version__}; "
                    f"install there: pip install 'fastseg[ray]=={__version__}'",
                    "cluster-version",
                )

    def _ask_nodes(self, question: Callable[[Any], Any], value: Any) -> list[tuple[str, Any]]:
        """Return (name of the machine, `question(value)` as answered there) for each node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = ray.remote(num_cpus=0)(question)
        with _quiet():
            asked = [
                remote.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ).remote(value)
                for node in self._nodes
            ]
            answers = [_answer(ray, one) for one in asked]
        return [
            (node["NodeManagerHostname"], answer[0])
            for node, answer in zip(self._nodes, answers)
            if answer
        ]

    def blind_node(self, paths: Sequence[Path]) -> str | None:
        facts = [(str(path), _size(path)) for path in paths]
        answers = self._ask_nodes(_sight_question(), facts)
        return next((name for name, sees in answers if not sees), None)

    def run(self, work: Work, jobs: Iterable[Any]) -> Iterator[Numbered]:
        import ray

        given = (pickle.dumps(work), self.workers, self.threads, self.num_gpus, os.getcwd())
        is_client = (self.address or "").startswith(CLIENT)
        # Ray Data does not run in a process outside of the cluster, so an actor runs it there.
        waves: Any = ray.remote(num_cpus=0)(Waves).remote(*given) if is_client else Waves(*given)

        def call(name: str, *args: Any) -> Any:
            method = getattr(waves, name)
            return ray.get(method.remote(*args)) if is_client else method(*args)

        numbered = iter(enumerate(jobs))
        while wave := _wave(numbered):
            with _quiet():
                try:
                    call("begin", wave)
                    while results := call("next"):
                        for number, result in results:
                            value = pickle.loads(result)
                            if isinstance(value, Failure):
                                raise value.error
                            yield number, value
                except ray.exceptions.RayError as error:
                    raise _explained(error) from error

    def run_long(self, work: Work, jobs: Iterable[Any]) -> Iterator[Numbered]:
        from .ray_pool import run_pool

        with _quiet():
            yield from run_pool(work, jobs, self._most_actors(), self.threads, self.num_gpus)

    def _most_actors(self) -> int:
        """Return how many workers fit into the cluster at once; others would wait without end."""
        return min(self.workers, sum(map(self._actors_of, self._nodes))) or 1

    def _actors_of(self, node: dict[str, Any]) -> int:
        have = node["Resources"]
        fitting = int(have.get("CPU", 0)) // self.threads
        if self.num_gpus:
            fitting = min(fitting, int(have.get("GPU", 0) / self.num_gpus))
        return fitting

    def __exit__(self, *_: Any) -> None:
        import ray

        if self._owns:
            with _quiet():
                ray.shutdown()


class Waves:
    """Runs jobs by Ray Data, some thousand at a time; results are taken one by one."""

    def __init__(self, work: bytes, workers: int, threads: int, num_gpus: float, folder: str):
        import ray

        self.work, self.folder = ray.put(work), folder
        self.workers, self.threads, self.num_gpus = workers, threads, num_gpus

    def begin(self, wave: list[dict[str, Any]]) -> None:
        """Start the jobs of a wave."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        count = min(self.workers, len(wave))
        # On the driver's machine, which the run cannot lose.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        ledger = ray.remote(num_cpus=0, scheduling_strategy=here)(Ledger)
        self.ledger = ledger.remote(count)
        self.results = iter(
            ray.data.from_items(wave, override_num_blocks=len(wave))
            .map_batches(
                Actor,
                fn_constructor_args=(self.work, self.threads, self.ledger, self.folder),
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
                num_cpus=self.threads,
                num_gpus=self.num_gpus or None,
            )
            .iter_batches(batch_size=None, prefetch_batches=0)
        )

    def next(self) -> list[tuple[int, bytes]]:
        """Return the next results, pickled, with their jobs' numbers; none at the end."""
        for batch in self.results:
            return [(int(number), one) for number, one in zip(batch["number"], batch["result"])]
        return []


class Actor:
    """What Ray Data calls: one worker.

    Errors are results: Ray would try again what raised one, some of them without end.
    """

    def __init__(self, work: Any, threads: int, ledger: Any, folder: str):
        import ray

        limit_threads(threads)
        with suppress(OSError):  # where it is the driver's, relative paths mean the same files
            os.chdir(folder)
        self.ledger = ledger
        try:
            self._require_few_deaths(None)
            self.call = pickle.loads(ray.get(work)).start()
        except Exception as error:
            self.call = _always(_as_result(error))

    def _require_few_deaths(self, job: int | None) -> None:
        import ray

        try:
            may_go_on = ray.get(self.ledger.may_go_on.remote(job))
        except ray.exceptions.RayError:  # the ledger is gone: deaths are not counted any more
            return
        if not may_go_on:
            raise worker_died("killed")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results = []
        for number, job in zip(batch["number"], batch["job"]):
            try:
                self._require_few_deaths(int(number))
                results.append(self.call(pickle.loads(job)))
            except Exception as error:
                results.append(_as_result(error))
        return {"number": batch["number"], "result": [pickle.dumps(one) for one in results]}


class Ledger:
    """An actor that counts how often each job, or a worker, was started.

    Ray starts dead workers and their jobs again without end.
    """

    def __init__(self, workers: int):
        self.workers, self.starts = workers, Counter[Any]()

    def may_go_on(self, job: int | None) -> bool:
        """Return whether a job, or a worker (None), may start once more."""
        self.starts[job] += 1
        return self.starts[job] <= MOST_DEATHS * (self.workers if job is None else 1)


def _as_result(error: Exception) -> Failure:
    """Return an error as a result; not every exception of a library can be pickled."""
    if isinstance(error, (FastsegError, MemoryError)):
        return Failure(error)
    return Failure(RuntimeError(f"in a worker of Ray:\n{traceback.format_exc()}"))


def _answer(ray: Any, reference: Any) -> tuple[Any] | None:
    """Return a node's answer; None from one that has just left the cluster."""
    try:
        return (ray.get(reference),)
    except (
        ray.exceptions.TaskUnschedulableError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.WorkerCrashedError,
    ):
        return None


def _always(result: Failure) -> Callable[[Any], Failure]:
    return lambda _: result


def _wave(numbered: Iterator[Numbered]) -> list[dict[str, Any]]:
    """Return the next jobs that go to Ray together, as rows."""
    wave, size = [], 0
    for number, job in islice(numbered, MOST_JOBS):
        packed = pickle.dumps(job)
        wave.append({"number": number, "job": packed})
        size += len(packed)
        if size > MOST_BYTES:
            break
    return wave


def _require_reachable(address: str) -> None:
    """Raise `ModelError` if nothing answers at an address; Ray would wait for a minute."""
    if address == "auto":
        return
    default = CLIENT_PORT if address.startswith(CLIENT) else PORT
    host, _, port = address.removeprefix(CLIENT).rstrip("/").partition(":")
    if port and not port.isdecimal():
        raise ModelError(
            f"--address {address}: give auto, host:{PORT} or ray://host:{CLIENT_PORT}",
            "cluster-address",
        )
    try:
        with socket.create_connection((host, int(port or default)), SECONDS_TO_CONNECT) as there:
            if not os.environ.get("RAY_USE_TLS") and not _speaks_http2(there):
                raise _token_needed(address)
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _speaks_http2(connection: socket.socket) -> bool:
    """Return whether a server answers as Ray's do, by gRPC: with a SETTINGS frame (RFC 9113, 3.4).

    Ray itself waits for minutes for another kind of server.
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    answer = b""
    while len(answer) < FRAME_HEADER:
        part = connection.recv(FRAME_HEADER - len(answer))
        if not part:
            return False
        answer += part
    return answer[3] == SETTINGS


def _no_ray(detail: str = "") -> ModelError:
    return ModelError(
        f"--engine ray needs Ray{f' ({detail})' if detail else ''}; install the extra ray: "
        "pip install 'fastseg[ray]'",
        "no-ray",
    )


def _unreachable(address: str, error: BaseException) -> ModelError:
    return ModelError(
        f"--address {address}: no Ray cluster can be reached there ({brief(error)}); start one "
        f"with ray start --head, or leave out --address to start Ray here",
        "no-cluster",
    )


def _token_needed(address: str) -> ModelError:
    return ModelError(
        f"--address {address}: something answers there and refuses the connection; if the cluster "
        "asks for a token (ray start does by default), set RAY_AUTH_MODE=token, with the token in "
        "~/.ray/auth_token; else check the port",
        "access-refused",
    )


def _explained(error: BaseException) -> Exception:
    """Return the error to raise for one of Ray: dead workers in one line, defects as they are."""
    text = str(error)
    if "OutOfMemory" in type(error).__name__ or "out of memory" in text.lower():
        return worker_died("out of memory")
    if "Died" in type(error).__name__ or "Unavailable" in type(error).__name__:
        return worker_died(brief(text))
    return RuntimeError(f"in a worker of Ray:\n{text}")


def _version_question() -> Callable[[Any], str]:
    """Return a function that returns the version of fastseg on a node, "" where there is none.

    Functions inside functions are sent by value: a node without fastseg can run them.
    """

    def version(_: object) -> str:
        from importlib import import_module

        try:
            return import_module("fastseg").__version__
        except ImportError:
            return ""

    return version


def _sight_question() -> Callable[[Any], bool]:
    """Return a function that returns whether files and folders, with their sizes, are on a node."""

    def sees(facts: Sequence[tuple[str, int]]) -> bool:
        from pathlib import Path

        for name, size in facts:
            path = Path(name)
            if not path.exists() or (path.is_file() and path.stat().st_size != size):
                return False
        return True

    return sees


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


class _ToLog(io.TextIOBase):
    """Write what is printed to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", text.rstrip())
        return len(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Ray prints out of the standard output, which scripts read."""
    with redirect_stdout(_ToLog()):
        yield


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what code in C++ writes to standard error: that it has read its log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
