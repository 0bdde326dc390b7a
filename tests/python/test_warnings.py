"""Warnings reach a client beside the answer, in trailers; SHOW WARNINGS has the same texts."""

from urllib.parse import unquote

import pyarrow.flight as flight
import pytest

import support
from support import rows, run


class Headers(flight.ClientMiddleware):
    def __init__(self, kept):
        self.kept = kept

    def received_headers(self, headers):
        self.kept.extend(unquote(value) for value in headers.get("lazaret-warning", []))


class Listening(flight.ClientMiddlewareFactory):
    """Keeps the warnings of every call."""

    def __init__(self):
        self.warnings = []

    def start_call(self, info):
        return Headers(self.warnings)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(admin, "CREATE TABLE t AS SELECT 1 AS a")
        yield server


def command(name, text):
    def field(data):
        assert len(data) < 128 * 128
        size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) % 128 + 128, len(data) // 128])
        return b"\x0a" + size + data

    kind = field(f"type.googleapis.com/arrow.flight.protocol.sql.{name}".encode())
    value = field(text.encode())
    size = bytes([len(value)]) if len(value) < 128 else bytes([len(value) % 128 + 128, len(value) // 128])
    return kind + b"\x12" + size + value


WARNED = [
    ("CREATE POLICY p ON TABLE t TO USER \"jo\u00e3o\" USING (true)", ['policy "p" names "jo\u00e3o", who is not known: a misspelt name?']),
    (
        "CREATE POLICY r ON TABLE t AS RESTRICTIVE TO ALL USING (a = 1)",
        [],
    ),
    ("DROP POLICY p ON TABLE t", []),
    (
        "CREATE OR REPLACE POLICY r ON TABLE t AS RESTRICTIVE TO ALL USING (a > 1)",
        ['table "lazaret.public.t" has row-level security on and no permissive policy for SELECT: it shows no rows'],
    ),
    ("DROP POLICY r ON TABLE t", ['table "lazaret.public.t" has no policy left and row-level security on: it shows no rows']),
    ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", []),
    (
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        ['table "lazaret.public.t" has row-level security on and no permissive policy for SELECT: it shows no rows'],
    ),
]


@pytest.mark.parametrize("way", ["GetFlightInfo", "DoPut"])
def test_what_a_statement_warns_of_is_in_its_trailers(server, way):
    listening = Listening()
    client = flight.connect(server.url, middleware=[listening])
    options = flight.FlightCallOptions(headers=[client.authenticate_basic_token("admin", support.ADMIN_PASSWORD)], timeout=60)

    def execute(sql):
        listening.warnings.clear()
        if way == "GetFlightInfo":
            client.get_flight_info(flight.FlightDescriptor.for_command(command("CommandStatementQuery", sql)), options)
        else:
            descriptor = flight.FlightDescriptor.for_command(command("CommandStatementUpdate", sql))
            writer, reader = client.do_put(descriptor, support.pa.schema([]), options)
            reader.read()
            writer.close()
        return list(listening.warnings)

    def shown():
        info = client.get_flight_info(flight.FlightDescriptor.for_command(command("CommandStatementQuery", "SHOW WARNINGS")), options)
        return client.do_get(info.endpoints[0].ticket, options).read_all().column(0).to_pylist()

    for sql, warnings in WARNED:
        got = execute(sql)
        assert got == warnings, sql
        assert shown() == got, sql
    execute("ALTER TABLE t DISABLE ROW LEVEL SECURITY")
    with server.connect() as admin:
        assert rows(admin, "SELECT a FROM t") == [(1,)]
