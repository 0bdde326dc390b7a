"""What a query reads: the second run no footer, log or manifest, and a policy's pruning spares files. The server counts."""

import re
import urllib.request

import deltalake
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

import support
from support import one, rows, run

METADATA = ("log", "manifest", "footer", "list")
FILES = 40
ROWS_PER_FILE = 50


def figures(server, name, label):
    """A counter with one label, from /metrics."""
    with urllib.request.urlopen(f"http://{server.admin_address}/metrics", timeout=20) as response:
        text = response.read().decode()
    found = {kind: int(value) for kind, value in re.findall(rf'^{name}{{{label}="(\w+)"}} (\d+)$', text, re.MULTILINE)}
    assert found, f"no {name} in /metrics"
    return found


def requests(server):
    return figures(server, "lazaret_store_requests_total", "kind")


def misses(server):
    return figures(server, "lazaret_cache_misses_total", "cache")


def added(before, after):
    return {name: after[name] - before[name] for name in after}


def numbers(region):
    return pa.table({"region_id": pa.array([region] * ROWS_PER_FILE, pa.int64()), "value": pa.array(range(ROWS_PER_FILE), pa.int64())})


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """The same rows as Delta, partitioned and not, and as Iceberg; one file for each region."""
    lake = tmp_path_factory.mktemp("lake").resolve()
    catalog = SqlCatalog("test", uri=f"sqlite:///{lake}/catalog.db", warehouse=f"file://{lake}")
    catalog.create_namespace("n")
    iceberg = catalog.create_table("n.iceberg", numbers(0).schema, location=f"file://{lake}/iceberg")
    for region in range(FILES):
        for name, by in (("partitioned", ["region_id"]), ("plain", None)):
            deltalake.write_deltalake(str(lake / name), numbers(region), mode="append", partition_by=by)
        iceberg.append(numbers(region))
    return lake


TABLES = [("partitioned", "DELTA"), ("plain", "DELTA"), ("iceberg", "ICEBERG")]


@pytest.fixture(scope="module")
def folder(lake, tmp_path_factory):
    """Data of a server that knows the tables, and a user who sees the regions 3 and 4 only."""
    folder = tmp_path_factory.mktemp("server")
    with support.serving(folder, allowed_paths=[lake]) as server, server.connect() as admin:
        run(admin, "CREATE USER rui PASSWORD 'long enough'")
        for name, kind in TABLES:
            run(
                admin,
                f"CREATE EXTERNAL TABLE {name} STORED AS {kind} LOCATION '{lake / name}'",
                f"GRANT SELECT ON TABLE {name} TO USER rui",
                f"CREATE POLICY region ON TABLE {name} TO USER rui USING (region_id BETWEEN 3 AND 4)",
                f"CREATE POLICY everything ON TABLE {name} TO USER admin USING (true)",
            )
    return folder


@pytest.fixture
def server(folder, lake):
    """Fresh, with cold caches."""
    with support.serving(folder, allowed_paths=[lake]) as server:
        yield server


def total(files):
    return files * sum(range(ROWS_PER_FILE))


@pytest.mark.parametrize("name", [name for name, _ in TABLES])
@pytest.mark.parametrize("user", ["admin", "rui"])
def test_second_run_reads_no_metadata(server, name, user):
    sql = f"SELECT sum(value) FROM {name} WHERE value >= 0"
    password = support.ADMIN_PASSWORD if user == "admin" else "long enough"
    expected = total(FILES if user == "admin" else 2)
    with server.connect(user, password) as connection:
        cold = requests(server)
        assert one(connection, sql) == expected
        warm, missed = requests(server), misses(server)
        first = added(cold, warm)
        assert first["footer"] > 0 and first["log" if name != "iceberg" else "manifest"] > 0, f"the counters count nothing: {first}"
        assert one(connection, sql) == expected
        second = added(warm, requests(server))
        assert {kind: second[kind] for kind in METADATA} == dict.fromkeys(METADATA, 0)
        assert sum(added(missed, misses(server)).values()) == 0


@pytest.mark.parametrize("name", [name for name, _ in TABLES])
def test_second_run_of_another_user_reads_no_metadata(server, name):
    """Caches hold files, not answers: what the admin's query read serves a restricted user, who sees his rows only."""
    sql = f"SELECT sum(value) FROM {name}"
    with server.connect() as admin, server.connect("rui", "long enough") as rui:
        assert one(admin, sql) == total(FILES)
        before = requests(server)
        assert one(rui, sql) == total(2)
        second = added(before, requests(server))
        assert {kind: second[kind] for kind in METADATA} == dict.fromkeys(METADATA, 0)


@pytest.mark.parametrize("name", [name for name, _ in TABLES])
@pytest.mark.parametrize(("condition", "files"), [("true", 2), ("region_id = 3", 1), ("region_id = 9", 0)])
def test_pruning_under_a_policy(server, name, condition, files):
    """Two of forty files hold rows that the user may see; the others are not opened."""
    with server.connect("rui", "long enough") as connection:
        before, missed = requests(server), misses(server)
        assert one(connection, f"SELECT coalesce(sum(value), 0) FROM {name} WHERE {condition}") == total(files)
        spent, missed = added(before, requests(server)), added(missed, misses(server))
        assert missed["footers"] <= files
        assert spent["footer"] <= 2 * files, "a footer takes at most two requests"
        assert spent["data"] <= 4 * files, "a file of two columns takes a few requests"


def test_figures_as_a_table(server):
    """system.caches says what /metrics says."""
    with server.connect() as connection:
        one(connection, "SELECT sum(value) FROM plain")
        found = {name: (hits, missed) for name, hits, missed in rows(connection, "SELECT name, hits, misses FROM system.caches")}
    hits, missed = figures(server, "lazaret_cache_hits_total", "cache"), misses(server)
    assert found == {name: (hits[name], missed[name]) for name in hits}
    assert found["footers"][1] == FILES
