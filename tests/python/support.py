"""What the driver tests share: the server as a process, the real parts beside it, and comparison of rows."""

import contextlib
import functools
import json
import math
import os
import select
import signal
import socket
import subprocess
import tarfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import zstandard

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
NO_SHARED = "skipped: no ../shared"
PARTS = Path(os.environ.get("BUILD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lazaret") / "parts"
ADMIN_PASSWORD = "correct horse"

# A debug binary on a busy machine of two cores; what takes longer hangs.
READY_S = 60
STOP_S = 40


def binary():
    path = os.environ.get("LAZARET_BIN")
    assert path and os.access(path, os.X_OK), "LAZARET_BIN must name the built binary"
    return path


def first_line(process, what, seconds=READY_S):
    """The first line of a process's standard output, which must come in time."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else b""
    if not line:
        code = process.poll()
        process.kill()
        raise RuntimeError(f"{what} did not become ready (exit code {code})")
    return line.decode()


# The servers that run now.
running_servers = []


def kill_all():
    for server in running_servers:
        server.process.kill()


class Server:
    """One `lazaret serve` on a free port, with a data folder of its own."""

    def __init__(self, folder, config="", allowed_paths=(), env=None, listen="127.0.0.1:0"):
        self.folder, self.listen = Path(folder), listen
        self.data_dir = self.folder / "data"
        self.log = self.folder / "server.log"
        self.config = self.folder / "lazaret.toml"
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = json.dumps([str(path) for path in allowed_paths])
        self.config.write_text(f'admin_listen = "127.0.0.1:0"\nallowed_paths = {paths}\n{config}')
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("LAZARET_", "AWS_"))}
        self.env |= {"LAZARET_ADMIN_PASSWORD": ADMIN_PASSWORD} | (env or {})
        self.process = None
        self.start()
        running_servers.append(self)

    def start(self):
        command = [binary(), "serve", "--data-dir", self.data_dir, "--listen", self.listen, "--config", self.config]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=self.env)
        try:
            ready = json.loads(first_line(self.process, "the server"))
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.log_tail()}") from None
        self.address, self.admin_address = ready["listen"], ready["admin_listen"]

    @property
    def url(self):
        return f"grpc://{self.address}"

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_S)
        self.process.stdout.close()

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_S)
        self.process.stdout.close()

    def log_tail(self, lines=20):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def connect(self, user="admin", password=ADMIN_PASSWORD, token=None, options=None, **kwargs):
        """An ADBC connection; with a token there is no handshake."""
        if token is None:
            db_kwargs = {"username": user, "password": password}
        else:
            db_kwargs = {adbc_driver_flightsql.DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"}
        kwargs.setdefault("autocommit", True)
        return adbc_driver_flightsql.dbapi.connect(self.url, db_kwargs=db_kwargs, conn_kwargs=options, **kwargs)


@contextlib.contextmanager
def serving(folder, **kwargs):
    server = Server(folder, **kwargs)
    try:
        yield server
        assert server.alive(), f"the server died\n{server.log_tail()}"
        assert "panicked at" not in server.log.read_text(errors="replace"), "something panicked in the server"
    finally:
        running_servers.remove(server)
        server.stop()


def table(connection, sql, parameters=None):
    """The result of a query as an Arrow table."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def rows(connection, sql, parameters=None):
    """The result of a query as tuples, in order."""
    return [tuple(row.values()) for row in renamed(table(connection, sql, parameters)).to_pylist()]


def one(connection, sql, parameters=None):
    """The only value of a result."""
    ((value,),) = rows(connection, sql, parameters)
    return value


def run(connection, *statements):
    """Statements whose results are of no interest."""
    for statement in statements:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            cursor.fetch_arrow_table()


def failure(connection, sql, parameters=None):
    """The error of a statement that must fail."""
    try:
        result = table(connection, sql, parameters)
    except adbc_driver_manager.Error as error:
        return error
    raise AssertionError(f"{sql} did not fail, and gave {result.num_rows} rows: {result.slice(0, 5).to_pylist()}")


def protobuf(field, payload):
    """One length-delimited field."""
    length, size = len(payload), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([field << 3 | 2]) + size + bytes([length]) + payload


class Raw:
    """Flight without a driver: its steps one by one."""

    def __init__(self, server, user=None, password=None, token=None, timeout_s=60):
        self.client = flight.connect(server.url)
        if token is None:
            header = self.client.authenticate_basic_token(user, password)
        else:
            header = (b"authorization", f"Bearer {token}".encode())
        self.options = flight.FlightCallOptions(headers=[header], timeout=timeout_s)

    def info(self, sql):
        kind = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
        command = protobuf(1, kind) + protobuf(2, protobuf(1, sql.encode()))
        return self.client.get_flight_info(flight.FlightDescriptor.for_command(command), self.options)

    def ticket(self, sql):
        return self.info(sql).endpoints[0].ticket

    def fetch(self, ticket):
        return self.client.do_get(ticket, self.options).read_all()

    def refused(self, ticket):
        """The words in which a ticket is refused."""
        try:
            result = self.fetch(ticket)
        except (flight.FlightError, pa.ArrowException) as error:
            return str(error)
        raise AssertionError(f"the ticket gave {result.to_pylist()}")


def update(connection, sql):
    """The statement as CommandStatementUpdate, without a cursor."""
    statement = adbc_driver_manager.AdbcStatement(connection.adbc_connection)
    try:
        statement.set_sql_query(sql)
        return statement.execute_update()
    finally:
        statement.close()


def renamed(result):
    """With names that differ, for to_pylist."""
    return result.rename_columns([f"{index}" for index in range(result.num_columns)])


def comparable(value):
    """A value that is equal to another exactly if a reader should see the same; NaN equals NaN, and -0.0 is not 0.0."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else repr(value))
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return ("struct", tuple((name, comparable(child)) for name, child in value.items()))
    if isinstance(value, tuple):  # an entry of a map
        return tuple(comparable(child) for child in value)
    if isinstance(value, list):
        children = [comparable(child) for child in value]
        is_map = bool(value) and all(isinstance(child, tuple) for child in value)
        return ("map", tuple(sorted(children, key=repr))) if is_map else ("list", tuple(children))
    return value


def multiset(result):
    return Counter(tuple(comparable(value) for value in row.values()) for row in renamed(result).to_pylist())


def shape(kind):
    """A type without what does not matter to a reader: large or not, names of list elements, nullability, metadata."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "binary"
    if pa.types.is_map(kind):
        return f"map<{shape(kind.key_type)}, {shape(kind.item_type)}>"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{shape(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {shape(field.type)}' for field in kind)}>"
    return str(kind)


def assert_same_rows(got, expected, types=True):
    """The same columns and the same rows in any order."""
    assert got.column_names == expected.column_names
    if types:
        assert [shape(field.type) for field in got.schema] == [shape(field.type) for field in expected.schema]
    assert_same_multiset(multiset(got), multiset(expected))


def assert_same_multiset(got, expected):
    missing, extra = expected - got, got - expected
    text = f"{missing.total()} of {expected.total()} rows missing, {extra.total()} extra"
    assert not missing and not extra, f"{text}\nmissing: {list(missing)[:3]}\nextra: {list(extra)[:3]}"


def archives(folder):
    """The archives of a folder of ../shared/data; none where it is absent."""
    return sorted((SHARED / "data" / folder).glob("*.tar.zst"))


def unpack(archive, target):
    """The folder that the archive was unpacked to."""
    target.mkdir(parents=True)
    with open(archive, "rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            tar.extractall(target, filter="fully_trusted")
    return target


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + str(text).replace("'", "''") + "'"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process, what):
    """Until something listens there: these processes do not say when they are ready."""
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        select.select([], [], [], 0.05)
    raise RuntimeError(f"{what} did not become ready (exit code {process.poll()})")


def end(process):
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)


class S3:
    """versitygw on a free port, with the bucket `lake`."""

    access_key, secret_key, region = "lazaret", "lazaretsecret", "us-east-1"

    def __init__(self, folder):
        (program,) = PARTS.glob("versitygw-*/versitygw")
        port = free_port()
        folder.mkdir()
        command = [program, "--port", f"127.0.0.1:{port}", "--access", self.access_key, "--secret", self.secret_key, "posix", folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(port, self.process, "versitygw")
        self.endpoint = f"http://127.0.0.1:{port}"
        self.client.create_bucket(Bucket="lake")

    @functools.cached_property
    def client(self):
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def upload(self, folder, prefix):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.upload_file(str(path), "lake", f"{prefix}/{path.relative_to(folder).as_posix()}")

    @property
    def store(self):
        """Its section of the configuration."""
        return (
            f'[stores.lake]\nurl = "s3://lake/"\nendpoint = "{self.endpoint}"\nregion = "{self.region}"\nallow_http = true\n'
            f'access_key_id = "{self.access_key}"\nsecret_access_key = "{self.secret_key}"\n'
        )


class Oidc:
    """An OIDC provider that issues whatever it is asked for."""

    def __init__(self):
        folder = PARTS / "oidc"
        self.process = subprocess.Popen(["node", folder / "server.js"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        ready = json.loads(first_line(self.process, "the OIDC provider"))
        self.issuer, self.base = ready["issuer"], f"http://127.0.0.1:{ready['port']}"

    def token(self, user, **claims):
        form = {"grant_type": "password", "username": user, "claims": json.dumps(claims)}
        request = urllib.request.Request(f"{self.base}/token", urllib.parse.urlencode(form).encode())
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)["access_token"]

    @property
    def section(self):
        """Its section of the configuration."""
        return (
            f'[[issuers]]\nname = "hospital"\nissuer = "{self.issuer}"\naudience = ["lazaret"]\n'
            f'jwks_url = "{self.base}/jwks"\nalgorithms = ["RS256", "ES256"]\n'
        )
