"""The audit's files, as an operator and an auditor handle them: verify, export; and what its records say."""

import contextlib
import json
import os
import random
import resource
import subprocess
import threading
import urllib.error
import urllib.request

import adbc_driver_manager
import duckdb
import pyarrow.parquet as pq
import pytest

import support
from support import failure, one, rows, run, table

KILLS = 12
TEST_S = 300

COLUMNS = """seq time statement_id session_id principal roles issuer subject token_id client_address client_driver statement
    statement_hash parameters tables columns policies emergency decision status error_id rows_returned bytes_returned duration_us executed_as""".split()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("audit") / "server", config="[audit]\nparameters = true\n") as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA h",
                "CREATE TABLE h.visits AS SELECT value AS id, value % 4 AS region FROM generate_series(1, 20)",
                "CREATE TABLE h.secrets AS SELECT 1 AS id",
                "CREATE USER rui PASSWORD 'a long password'",
                "GRANT SELECT ON TABLE h.visits TO USER rui",
                "CREATE POLICY own ON TABLE h.visits TO USER rui USING (region = 2)",
            )
        yield server


@pytest.fixture(scope="module")
def rui(server):
    with server.connect("rui", "a long password") as connection:
        yield connection


def lazaret(*arguments):
    """Exit code and output of the binary."""
    command = [support.binary(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={})
    return done.returncode, done.stdout + done.stderr


def segments(server):
    return sorted((server.data_dir / "audit").glob("*.jsonl"))


def audited(admin, statement, principal="rui"):
    """The record of the last such statement."""
    found = table(admin, "SELECT * FROM system.audit WHERE statement = ? AND principal = ? ORDER BY seq", [statement, principal])
    return found.to_pylist()[-1]


def test_the_columns_and_their_types(admin):
    schema = table(admin, "SELECT * FROM system.audit LIMIT 1").schema
    assert schema.names == COLUMNS
    kinds = {field.name: support.shape(field.type) for field in schema}
    numbers = {"seq", "rows_returned", "bytes_returned", "duration_us"}
    lists = {"roles", "tables", "columns"}
    expected = dict.fromkeys(COLUMNS, "string") | dict.fromkeys(numbers, "int64") | dict.fromkeys(lists, "list<string>")
    assert kinds == expected | {"time": "timestamp[us, tz=UTC]"}


def test_what_was_let_in_has_tables_columns_snapshot_and_policies(admin, rui):
    sql = "SELECT count(*) FROM h.visits WHERE id > 3"
    assert one(rui, sql) > 0
    found = audited(admin, sql)
    assert (found["decision"], found["status"], found["tables"]) == ("allow", "ok", ["lazaret.h.visits"])
    assert {"lazaret.h.visits.id"} <= set(found["columns"])
    (used,) = json.loads(found["policies"])
    assert (used["table"], used["snapshot"]) == ("lazaret.h.visits", 0)
    assert [(policy["name"], policy["version"]) for policy in used["policies"]] == [("own", 1)]


@pytest.mark.parametrize(
    "sql, tables, status",
    [
        ("SELECT * FROM h.secrets", ["lazaret.h.secrets"], "not_found"),
        ("SELECT * FROM h.nosuch", ["lazaret.h.nosuch"], "not_found"),
        ("SELECT v.id FROM h.visits v JOIN h.secrets s ON s.id = v.id", ["lazaret.h.secrets", "lazaret.h.visits"], "not_found"),
        ("SELECT nosuch FROM h.visits", ["lazaret.h.visits"], "not_found"),
        ("WITH secrets AS (SELECT 1) SELECT * FROM secrets, h.secrets", ["lazaret.h.secrets"], "not_found"),
        ("EXPLAIN SELECT * FROM h.secrets", ["lazaret.h.secrets"], "not_found"),
        ("DESCRIBE h.secrets", ["lazaret.h.secrets"], "not_found"),
        ("DROP TABLE h.secrets", ["lazaret.h.secrets"], "not_found"),
        ("DROP TABLE h.visits", ["lazaret.h.visits"], "permission_denied"),
        ("CREATE TABLE h.mine AS SELECT * FROM h.visits", ["lazaret.h.mine", "lazaret.h.visits"], "permission_denied"),
        ("CREATE VIEW h.mine AS SELECT * FROM h.secrets", ["lazaret.h.mine", "lazaret.h.secrets"], "not_found"),
        ("GRANT SELECT ON TABLE h.visits TO USER rui", ["lazaret.h.visits"], "permission_denied"),
        ("DENY SELECT ON TABLE h.secrets TO USER rui", ["lazaret.h.secrets"], "not_found"),
        ("CREATE POLICY p ON TABLE h.visits TO ALL USING (true)", ["lazaret.h.visits"], "permission_denied"),
        ("DROP POLICY own ON TABLE h.visits", ["lazaret.h.visits"], "permission_denied"),
        ("CREATE MASKING POLICY m ON TABLE h.visits (id) TO ALL USING (1)", ["lazaret.h.visits"], "permission_denied"),
        ("ALTER TABLE h.visits DISABLE ROW LEVEL SECURITY", ["lazaret.h.visits"], "permission_denied"),
        ("CREATE SCHEMA mine", [], "permission_denied"),
        ("DROP SCHEMA h", [], "permission_denied"),
        ("CREATE USER eve", [], "permission_denied"),
        ("DROP USER admin", [], None),
        ("GRANT ROLE r TO USER rui", [], None),
        ("USE nosuch", [], "not_found"),
        ("SELECT count(*) FROM system.audit", ["lazaret.system.audit"], "not_found"),
    ],
)
def test_what_was_refused_has_what_was_asked_for(admin, rui, sql, tables, status):
    failure(rui, sql)
    found = audited(admin, sql)
    assert (found["decision"], found["tables"]) == ("deny", tables)
    assert status is None or found["status"] == status


def test_a_refusal_has_the_policies_of_what_was_resolved_before_it(admin, rui):
    sql = "SELECT id + nosuch FROM h.visits"
    failure(rui, sql)
    (used,) = json.loads(audited(admin, sql)["policies"])
    assert (used["table"], used["snapshot"], used["policies"][0]["name"]) == ("lazaret.h.visits", 0, "own")


def test_a_statement_that_is_wrong_is_no_denial(admin, rui):
    for sql, status in [("SELEC 1", "invalid_argument"), ("SELECT 1 / 0", "invalid_argument"), ("VACUUM h.visits", "unimplemented")]:
        failure(rui, sql)
        found = audited(admin, sql)
        assert (found["decision"], found["status"]) == ("allow", status)


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW TABLES FROM h",
        "SHOW SETTINGS",
        "SHOW GRANTS",
        "DESCRIBE h.visits",
        "SET batch_size = 100",
        "RESET ALL",
        "USE lazaret.h",
        "EXPLAIN SELECT 1 AS explained",
        "SELECT 1 AS plain",
    ],
)
def test_every_kind_of_statement_leaves_a_record(admin, rui, sql):
    run(rui, sql)
    found = audited(admin, sql)
    assert (found["decision"], found["status"]) == ("allow", "ok")


def test_parameters_are_recorded_where_that_is_configured(admin, rui):
    sql = "SELECT count(*) FROM h.visits WHERE id = ? AND region = ?"
    rows(rui, sql, [6, 2])
    assert json.loads(audited(admin, sql)["parameters"]) == [["6", "2"]]
    rows(rui, "SELECT 1 AS nothing_bound")
    assert audited(admin, "SELECT 1 AS nothing_bound")["parameters"] is None


def test_parameters_are_not_recorded_by_default_and_secrets_never(tmp_path):
    with support.serving(tmp_path / "server") as server, server.connect() as admin:
        rows(admin, "SELECT ?", ["a secret value"])
        run(admin, "CREATE USER eve PASSWORD 'a secret value'")
        assert one(admin, "SELECT count(*) FROM system.audit WHERE parameters IS NOT NULL") == 0
        for segment in segments(server):
            assert "a secret value" not in segment.read_text()


def test_a_refused_sign_in_is_recorded_and_not_every_one(tmp_path):
    with support.serving(tmp_path / "server") as server, server.connect() as admin:
        run(admin, "CREATE USER eve PASSWORD 'a long password'")
        for user in ["eve", "eve", "eve", "my password, typed as a name"]:
            with pytest.raises(adbc_driver_manager.Error):
                server.connect(user, "a wrong password")
        sql = "SELECT issuer, subject, decision, status, statement, principal FROM system.audit WHERE status = 'unauthenticated' ORDER BY seq"
        found = rows(admin, sql)
        assert ("local", "eve", "deny", "unauthenticated", "-- sign-in refused: wrong password", "") in found
        assert "typed as a name" not in str(found)
        assert len(found) <= 4
        assert all("password'" not in segment.read_text() for segment in segments(server))


def test_verify_and_what_it_finds(tmp_path):
    with support.serving(tmp_path / "server") as server:
        with server.connect() as admin:
            for number in range(20):
                rows(admin, f"SELECT {number}")
        code, said = lazaret("audit", "verify", "--data-dir", server.data_dir)
        assert code == 0 and "the audit log is whole" in said, said
        (last,) = [line.removeprefix("the last is ") for line in said.splitlines() if line.startswith("the last is ")]
        server.stop()
        # Noted earlier, it must be there later.
        assert lazaret("audit", "verify", "--data-dir", server.data_dir, "--known", last)[0] == 0
        other = last[:-1] + ("0" if last[-1] != "0" else "1")
        assert lazaret("audit", "verify", "--data-dir", server.data_dir, "--known", other)[0] == 1
        (segment,) = segments(server)
        assert lazaret("audit", "verify", segment)[0] == 0
        whole = segment.read_bytes()
        lines = whole.splitlines(keepends=True)
        count = len(lines)
        changed = next(at for at, line in enumerate(lines) if at > count // 2 and b"SELECT" in line)
        damages = {
            f"record {changed + 1}: the record is damaged": [
                *lines[:changed],
                lines[changed].replace(b"SELECT", b"SELEKT"),
                *lines[changed + 1 :],
            ],
            "record 5: record 5 is missing": [*lines[:4], *lines[5:]],
            "record 7: record 7 is missing": [*lines[:6], lines[7], lines[6], *lines[8:]],
            f"record {count - 1}: records {count - 1} to {count} are missing": lines[:-2],
        }
        for expected, damaged in damages.items():
            segment.write_bytes(b"".join(damaged))
            code, said = lazaret("audit", "verify", "--data-dir", server.data_dir)
            assert code == 1 and f"segment {segment.name}, {expected}" in said, (expected, said)
        segment.write_bytes(whole)
        # Without the key the chain is followed, and the command says what it could not look at.
        key = server.data_dir / "server.key"
        key.rename(tmp_path / "away")
        code, said = lazaret("audit", "verify", "--data-dir", server.data_dir)
        assert code == 0 and "were not compared with the server's key" in said, said
        assert not key.exists()
        (tmp_path / "away").rename(key)
        assert lazaret("audit", "verify", "--data-dir", tmp_path / "nosuch")[0] == 2
        server.start()


def test_verify_holds_after_every_kill(tmp_path):
    """Killed at random moments, with clients at work, the log is whole before the next start and after it."""
    moments = random.Random(7)

    def work(server, number):
        with contextlib.suppress(adbc_driver_manager.Error), server.connect() as connection:
            while True:
                rows(connection, f"SELECT {number}")

    with support.serving(tmp_path / "server") as server:
        records = 0
        for _ in range(KILLS):
            threads = [threading.Thread(target=work, args=(server, number), daemon=True) for number in range(3)]
            for thread in threads:
                thread.start()
            # The moment of the kill is what is random here; nothing is waited for.
            threads[0].join(moments.uniform(0.0, 0.8))
            server.kill()
            for thread in threads:
                thread.join(60)
            code, said = lazaret("audit", "verify", "--data-dir", server.data_dir)
            assert code == 0, said
            server.start()
            code, said = lazaret("audit", "verify", "--data-dir", server.data_dir)
            assert code == 0 and "no whole record" not in said, said
            (found,) = [int(line.split()[0]) for line in said.splitlines() if " records, from " in line]
            assert found > records
            records = found


def test_export(server, admin, rui, tmp_path):
    rows(rui, "SELECT 1 AS to_be_exported")
    failure(rui, "SELECT * FROM h.secrets")
    file = tmp_path / "audit.parquet"
    code, said = lazaret("audit", "export", "--data-dir", server.data_dir, "--to", file)
    assert code == 0, said
    assert os.listdir(tmp_path) == ["audit.parquet"] and file.stat().st_mode & 0o777 == 0o600
    exported = pq.read_table(file)
    expected = table(admin, "SELECT * FROM system.audit WHERE seq <= (SELECT max(seq) FROM system.audit WHERE principal = 'rui')")
    assert [field.name for field in exported.schema] == COLUMNS
    assert [support.shape(field.type) for field in exported.schema] == [support.shape(field.type) for field in expected.schema]
    by_seq = {row["seq"]: row for row in exported.to_pylist()}
    for row in expected.to_pylist():
        assert by_seq[row["seq"]] == row
    found = duckdb.sql(f"SELECT decision, tables FROM '{file}' WHERE statement = 'SELECT * FROM h.secrets' ORDER BY seq").fetchall()
    assert found[-1] == ("deny", ["lazaret.h.secrets"])
    moment = [row["time"] for row in exported.to_pylist() if row["statement"] == "SELECT * FROM h.secrets"][-1]
    for period, holds in [
        (["--from", moment.isoformat()], True),
        (["--until", moment.isoformat()], False),
        (["--from", "2001-01-01", "--until", "2001-01-02"], False),
    ]:
        code, said = lazaret("audit", "export", "--data-dir", server.data_dir, "--to", file, *period)
        assert code == 0, said
        times = pq.read_table(file)["time"].to_pylist()
        assert (moment in times) == holds
        assert all((time >= moment) == holds for time in times)
    assert lazaret("audit", "export", "--data-dir", server.data_dir, "--to", tmp_path / "nosuch" / "x.parquet")[0] == 2
    assert os.listdir(tmp_path) == ["audit.parquet"]


def ready(server):
    try:
        return urllib.request.urlopen(f"http://{server.admin_address}/readyz", timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_files_that_cannot_be_written_stop_statements_until_they_can(tmp_path, monkeypatch):
    """As on a full disk, without one: the process may not write to files, and later may again."""
    popen = subprocess.Popen
    # Python ignores SIGXFSZ, and so must the server: the write then fails instead of ending it.
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: popen(*args, restore_signals=False, **kwargs))
    with support.serving(tmp_path / "server") as server, server.connect() as admin:
        assert one(admin, "SELECT 1") == 1
        unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        # Its log, which goes to a file as well, fails with it.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        assert "the audit cannot be written: nothing was changed or sent" in str(failure(admin, "SELECT 2"))
        assert ready(server) == 503
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        # The server tries again by itself, once a second.
        while ready(server) != 200:
            pass
        assert one(admin, "SELECT 3") == 3
        assert rows(admin, "SELECT statement FROM system.audit WHERE statement LIKE 'SELECT _' AND status = 'ok' ORDER BY seq") == [
            ("SELECT 1",),
            ("SELECT 3",),
        ]
        assert lazaret("audit", "verify", "--data-dir", server.data_dir)[0] == 0
