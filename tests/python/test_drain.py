"""gRPC's health service, and what a graceful stop does: those who ask are sent elsewhere, nobody new is let in, and what
runs comes to its end, after which the process ends by itself."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import adbc_driver_manager
import pytest

import support
from support import Raw, protobuf, rows
from test_statements_end import until

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
FLIGHT = "arrow.flight.protocol.FlightService"
UNKNOWN, SERVING, NOT_SERVING = range(3)
# Of which far more comes than what lies in the windows and buffers between a server and a client that does not read.
ROWS = 100_000
MANY = f"SELECT value AS n, repeat('x', 1000) AS x FROM generate_series(1, {ROWS})"
# What the log says where the time of the drain was up.
CUT_OFF = "statements still run; they are cancelled"


def framed(message):
    return b"\0" + len(message).to_bytes(4, "big") + message


def status(message):
    """Of a HealthCheckResponse, whose only field is left out where it is 0."""
    assert message == b"" or message[:1] == b"\x08" and len(message) == 2, message
    return message[1] if message else UNKNOWN


class Health:
    """gRPC's health service by curl, which shows what comes as it comes, without a credential."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder

    def command(self, method, service):
        body = self.folder / f"{method}-{service or 'all'}"
        body.write_bytes(framed(protobuf(1, service.encode()) if service else b""))
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "expect:", "--data-binary", f"@{body}"]
        return ["curl", "--http2-prior-knowledge", "-sN", *headers, f"http://{self.server.address}/grpc.health.v1.Health/{method}"]

    def check(self, service=""):
        """What the service says, or the number of gRPC's status."""
        trailers = self.folder / "trailers"
        command = [*self.command("Check", service), "-D", trailers, "--max-time", "30"]
        answer = subprocess.run(command, capture_output=True, check=True).stdout
        found = dict(line.split(": ", 1) for line in trailers.read_text().splitlines() if ": " in line)
        return status(answer[5:]) if found["grpc-status"] == "0" else f"grpc-status {found['grpc-status']}"

    @contextlib.contextmanager
    def watch(self, service=""):
        with subprocess.Popen(self.command("Watch", service), stdout=subprocess.PIPE) as process:
            try:
                yield Watch(process)
            finally:
                process.kill()


class Watch:
    """What the service says, one after the other."""

    def __init__(self, process):
        self.process, self.read = process, b""

    def next(self):
        while len(self.read) < 5 or len(self.read) < 5 + int.from_bytes(self.read[1:5], "big"):
            ready, _, _ = select.select([self.process.stdout], [], [], support.READY_S)
            part = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            assert part, "nothing more is said"
            self.read += part
        size = 5 + int.from_bytes(self.read[1:5], "big")
        message, self.read = self.read[5:size], self.read[size:]
        return status(message)


def ready(server):
    try:
        with urllib.request.urlopen(f"http://{server.admin_address}/readyz", timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def listens(address):
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


def ended_by_itself(server):
    """The process is over, with 0, and not because the time of the drain was up."""
    assert server.process.wait(support.STOP_S) == 0
    server.process.stdout.close()
    assert CUT_OFF not in server.log.read_text()


def test_health_needs_no_credential_and_says_what_is_served(tmp_path):
    with support.serving(tmp_path / "server") as server:
        health = Health(server, tmp_path)
        for service in ("", FLIGHT):
            assert health.check(service) == SERVING
            with health.watch(service) as watch:
                assert watch.next() == SERVING
        not_found = "grpc-status 5"
        assert health.check("some.other.Service") == not_found


def is_unavailable(call):
    try:
        call()
    except support.flight.FlightUnavailableError:
        return True
    return False


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_run_what_runs_and_nothing_new_in(tmp_path, sent):
    with support.serving(tmp_path / "server") as server:
        health = Health(server, tmp_path)
        with server.connect() as admin, contextlib.ExitStack() as watches:
            told = [watches.enter_context(health.watch(service)) for service in ("", FLIGHT)]
            assert [watch.next() for watch in told] == [SERVING, SERVING]
            assert ready(server) == 200
            client = Raw(server, "admin", support.ADMIN_PASSWORD)
            idle = Raw(server, "admin", support.ADMIN_PASSWORD)
            reader = client.client.do_get(client.ticket(MANY), client.options)
            read = reader.read_chunk().data.num_rows
            state = "SELECT state FROM system.queries WHERE statement = ?"
            assert rows(admin, state, [MANY]) == [("running",)]

            server.process.send_signal(sent)
            assert [watch.next() for watch in told] == [NOT_SERVING, NOT_SERVING]
            until(lambda: ready(server) == 503)
            until(lambda: not listens(server.address))
            # Who is connected is not served any more either.
            until(lambda: is_unavailable(lambda: idle.info("SELECT 1")))
            assert server.alive() and CUT_OFF not in server.log.read_text()
            watches.close()

            # The query waited for its client, which reads on now.
            with contextlib.suppress(StopIteration):
                while True:
                    read += reader.read_chunk().data.num_rows
            assert read == ROWS
            client.client.close()
            ended_by_itself(server)
            with contextlib.suppress(adbc_driver_manager.Error):
                admin.close()
        server.start()
        with server.connect() as admin:
            assert rows(admin, "SELECT status, rows_returned FROM system.audit WHERE statement = ?", [MANY]) == [("ok", ROWS)]
            assert health.check() == SERVING


def test_who_watches_does_not_hold_the_process(tmp_path):
    """A watch has no end of its own, and load balancers keep one open for as long as they are connected."""
    with support.serving(tmp_path / "server") as server:
        health = Health(server, tmp_path)
        with health.watch() as watch:
            assert watch.next() == SERVING
            server.process.send_signal(signal.SIGTERM)
            assert watch.next() == NOT_SERVING
            ended_by_itself(server)
        server.start()


def test_a_second_signal_ends_what_still_runs(tmp_path):
    """Whoever sends it does not want to wait."""
    with support.serving(tmp_path / "server") as server:
        with server.connect() as admin, Health(server, tmp_path).watch() as watch:
            assert watch.next() == SERVING
            client = Raw(server, "admin", support.ADMIN_PASSWORD)
            reader = client.client.do_get(client.ticket(MANY), client.options)
            reader.read_chunk()
            server.process.send_signal(signal.SIGTERM)
            assert watch.next() == NOT_SERVING
            assert server.alive()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(support.STOP_S) == 0
            server.process.stdout.close()
            log = server.log.read_text()
            assert "told again to stop" in log and CUT_OFF not in log
            with pytest.raises((support.flight.FlightError, support.pa.ArrowException)):
                while True:
                    reader.read_chunk()
            with contextlib.suppress(adbc_driver_manager.Error):
                admin.close()
        server.start()
        with server.connect() as admin:
            # The end of the process may come before the record of the statement's.
            ((ended,),) = rows(admin, "SELECT status FROM system.audit WHERE statement = ?", [MANY])
            assert ended in ("cancelled", "interrupted")
