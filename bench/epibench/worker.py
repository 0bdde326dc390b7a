"""An engine in a process of its own: its memory and processor time are told apart, and a crash of it is its own.

The engine takes the time of a query itself, from the text to the Arrow table; nothing is sent while the clock runs.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time

import pyarrow as pa

from . import engines
from .queries import SELECTIVE, Draws
from .server import Usage

START_S = 120


class Failed(Exception):
    pass


class Worker:
    def __init__(self, name, tables, listen=None, timeout_s=600):
        self.name, self.timeout_s = name, timeout_s
        self.dialect = engines.ENGINES[name].dialect
        self.scratch = tempfile.TemporaryDirectory(prefix=f"{name}-")  # an engine that is killed tidies nothing up
        processes = multiprocessing.get_context("spawn")
        self.pipe, other = processes.Pipe()
        self.process = processes.Process(target=serve, args=(other, name, str(tables), listen, self.scratch.name), daemon=True)
        self.process.start()
        other.close()
        self.usage = Usage(self.process.pid)
        try:
            self.version = self.answer(START_S)
        except Failed:
            self.stop()
            raise

    def ask(self, sql, user="national", answer_to=None):
        """Milliseconds, and rows; the answer itself goes into a file where one is named."""
        return self.call("ask", sql, user, answer_to)

    def load(self, *arguments):
        return self.call("load", *arguments)

    def call(self, *message):
        try:
            self.pipe.send(message)
        except (OSError, ValueError):
            raise Failed("its process has ended") from None
        return self.answer(self.timeout_s)

    def answer(self, timeout_s):
        try:
            if not self.pipe.poll(timeout_s):
                self.stop()
                raise Failed(f"no answer within {timeout_s} s")
            kind, content = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise Failed(f"its process ended with code {self.process.exitcode}") from None
        if kind == "error":
            raise Failed(content)
        return content

    def stop(self):
        """Kills it, for an engine has nothing to finish; with its children: Spark's JVM, a server that is a peer."""
        for process in self.usage.processes() if self.process.is_alive() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        self.process.join()
        self.scratch.cleanup()


def serve(pipe, name, tables, listen, scratch):
    """In the new process: opens the engine, then does what it is told."""
    os.environ["TMPDIR"] = scratch
    try:
        engine = engines.ENGINES[name](tables, listen)
        client = engine.client()
        pipe.send(("ok", engines.version(name)))
    except BaseException as error:  # chDB and the JVM raise what is no Exception
        pipe.send(("error", f"{type(error).__name__}: {error}"))
        return
    while True:
        kind, *arguments = pipe.recv()
        try:
            pipe.send(("ok", ask(client, *arguments) if kind == "ask" else load(engine, *arguments)))
        except BaseException as error:
            pipe.send(("error", f"{type(error).__name__}: {error}"))


def ask(client, sql, user, answer_to):
    started = time.perf_counter()
    answer = client(sql, user)
    elapsed_ms = (time.perf_counter() - started) * 1000
    if answer_to:
        with pa.OSFile(answer_to, "wb") as file, pa.ipc.new_file(file, answer.schema) as writer:
            writer.write_table(answer)
    return elapsed_ms, answer.num_rows


def load(engine, clients, seconds, seed, events, persons, pool):
    """The selective set by so many clients at a time, each with its own literals: latencies in ms, seconds that it took, errors.

    With a pool the clients queue for so many threads, which is how a library is put behind a server.
    """
    latencies, errors, begin = [], [], []
    ready = threading.Barrier(clients, action=lambda: begin.append(time.perf_counter()))
    pooled = queue.SimpleQueue()
    for _ in range(pool or 0):
        pooled.put(engine.client())

    def run(number):
        draws = Draws(seed + number, events, persons)
        try:
            own = None if pool else engine.client()
        except Exception as error:
            errors.append(str(error))
            ready.abort()
        ready.wait()
        turn = number
        while time.perf_counter() < begin[0] + seconds:
            query = SELECTIVE[turn % len(SELECTIVE)]
            turn += 1
            sql = query.sql(engine.dialect, draws.next())
            started = time.perf_counter()
            client = own or pooled.get()
            try:
                client(sql, query.user)
                latencies.append((time.perf_counter() - started) * 1000)
            except Exception as error:
                errors.append(f"{query.name}: {error}")
            finally:
                if pool:
                    pooled.put(client)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not begin:
        raise Failed(errors[0])
    return latencies, time.perf_counter() - begin[0], errors
