"""Emergency access through a real driver: prepared statements and tickets, the officer's list, the alarm, a restart."""

import urllib.request

import pytest

import support
from support import failure, one, rows, run, table
from test_statements_end import until

ALARM = "EMERGENCY ACCESS: row policies and masks are lifted"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), config='[log]\nformat = "json"\n') as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE USER ana PASSWORD 'ana-password'",
                "CREATE USER rui PASSWORD 'rui-password'",
                "CREATE USER officer PASSWORD 'officer-password'",
                "CREATE TABLE t AS SELECT value AS id, concat('name ', CAST(value AS VARCHAR)) AS name FROM generate_series(1, 5)",
                "CREATE POLICY one ON TABLE t TO ALL USING (id = 1)",
                "CREATE MASKING POLICY names ON TABLE t (name) TO ALL USING ACTION mask_alphanum",
                "GRANT SELECT ON TABLE t TO USER ana",
                "GRANT SELECT ON TABLE t TO USER rui",
                "GRANT EMERGENCY ACCESS ON SYSTEM TO USER ana",
                "GRANT MANAGE POLICIES ON SYSTEM TO USER officer",
            )
        yield server


@pytest.fixture
def ana(server):
    with server.connect("ana", "ana-password") as connection:
        yield connection


@pytest.fixture
def officer(server):
    with server.connect("officer", "officer-password") as connection:
        yield connection


GOVERNED = [(1, "xxxxxn")]
LIFTED = [(value, f"name {value}") for value in range(1, 6)]
SELECT = "SELECT id, name FROM t ORDER BY id"


def accesses(connection):
    return table(connection, "SHOW EMERGENCY ACCESS").to_pylist()


def metric(server, name):
    with urllib.request.urlopen(f"http://{server.admin_address}/metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def test_a_prepared_statement_follows_it_and_the_officer_ends_it(server, ana, officer):
    cursor = ana.cursor()
    count = "SELECT count(*) AS n FROM t"
    cursor.adbc_prepare(count)

    def counted():
        cursor.execute(count)
        return cursor.fetchone()[0]

    assert counted() == 1
    run(ana, "SET EMERGENCY ACCESS REASON 'an outbreak' FOR 5 MINUTES")
    assert counted() == 5
    assert rows(ana, SELECT) == LIFTED
    (access,) = [it for it in accesses(officer) if it["state"] == "in force"]
    assert (access["principal"], access["reason"], access["tables"], access["ended"]) == ("ana", "an outbreak", None, None)
    assert (access["expires"] - access["started"]).total_seconds() == 300
    assert access in accesses(ana)
    with server.connect("rui", "rui-password") as rui:
        assert accesses(rui) == []
        here, nowhere = (str(failure(rui, f"END EMERGENCY ACCESS '{id}'")).replace(id, "") for id in (access["id"], "0" * 32))
        assert here == nowhere
        assert rows(rui, SELECT) == GOVERNED
        assert "EMERGENCY ACCESS on the system is required" in str(failure(rui, "SET EMERGENCY ACCESS REASON 'me too'"))
    run(officer, f"END EMERGENCY ACCESS '{access['id']}'")
    assert counted() == 1
    assert rows(ana, SELECT) == GOVERNED
    (access,) = [it for it in accesses(ana) if it["id"] == access["id"]]
    assert (access["state"], access["end_cause"]) == ("over", "ended by officer")
    run(officer, f"END EMERGENCY ACCESS '{access['id']}'")
    assert one(officer, "SHOW WARNINGS") == "the emergency access was over already"
    cursor.close()


def test_effective_policies_show_what_it_lifts(ana, officer):
    def effects(connection, of=""):
        shown = table(connection, f"SHOW EFFECTIVE POLICIES ON t {of}").to_pylist()
        return {(line["kind"], line["name"]): line["effect"] for line in shown if line["kind"] != "GRANT"}

    binding = {("ROW LEVEL SECURITY", None): "applies", ("PERMISSIVE POLICY", "one"): "applies", ("MASKING POLICY", "names"): "applies"}
    assert effects(ana) == binding
    run(ana, "SET EMERGENCY ACCESS REASON 'what binds' FOR 1 MINUTE ON t")
    (access,) = [it for it in accesses(ana) if it["state"] == "in force"]
    lifted = {what: "lifted" for what in binding}
    assert effects(ana) == {**lifted, ("EMERGENCY ACCESS", access["id"]): "applies"}
    # It is for that session alone.
    assert effects(officer, "FOR USER ana") == binding
    run(ana, "END EMERGENCY ACCESS")
    assert effects(ana) == binding


def test_execute_as_lends_no_emergency_access(server, admin, ana):
    """Neither the one's own to somebody else, nor somebody else's."""
    run(admin, "CREATE USER deputy PASSWORD 'deputy-password'", "GRANT IMPERSONATE ON SYSTEM TO USER deputy",
        "GRANT EMERGENCY ACCESS ON SYSTEM TO USER deputy", "GRANT SELECT ON TABLE t TO USER deputy")
    run(ana, "SET EMERGENCY ACCESS REASON 'of ana' FOR 1 MINUTE")
    with server.connect("deputy", "deputy-password") as deputy:
        assert rows(deputy, f"EXECUTE AS USER ana {SELECT}") == GOVERNED
        run(deputy, "SET EMERGENCY ACCESS REASON 'of the deputy' FOR 1 MINUTE")
        assert rows(deputy, SELECT) == LIFTED
        for user in ("ana", "rui"):
            assert rows(deputy, f"EXECUTE AS USER {user} {SELECT}") == GOVERNED
    run(ana, "END EMERGENCY ACCESS")


def test_a_ticket_that_was_made_under_it_shows_nothing_more(server, ana, officer):
    run(ana, "SET EMERGENCY ACCESS REASON 'a ticket'")
    cursor = ana.cursor()
    partitions, _ = cursor.adbc_execute_partitions("SELECT count(*) AS n FROM t")
    run(officer, f"END EMERGENCY ACCESS '{accesses(officer)[0]['id']}'")
    cursor.adbc_read_partition(partitions[0])
    assert cursor.fetchall() == [(1,)]
    cursor.close()


def test_it_is_alarmed_counted_and_audited(server, admin, ana):
    began, statements = (metric(server, f"lazaret_emergency_{what}_total") for what in ("accesses", "statements"))
    run(ana, "SET EMERGENCY ACCESS REASON 'the alarm' FOR 1 MINUTE ON t")
    (access,) = [it for it in accesses(ana) if it["state"] == "in force"]
    assert access["tables"] == "lazaret.public.t"
    (line,) = [line for line in server.log.read_text().splitlines() if ALARM in line and access["id"] in line]
    assert '"level":"WARN"' in line and '"principal":"ana"' in line and '"reason":"the alarm"' in line
    assert rows(ana, SELECT) == LIFTED
    assert metric(server, "lazaret_emergency_accesses_total") == began + 1
    # SET itself, SHOW and SELECT.
    assert metric(server, "lazaret_emergency_statements_total") == statements + 3
    assert metric(server, "lazaret_emergency_accesses") == 1
    run(ana, "END EMERGENCY ACCESS")
    assert metric(server, "lazaret_emergency_accesses") == 0
    marked = f"SELECT statement FROM system.audit WHERE emergency = '{access['id']}' ORDER BY seq"
    assert [row[0] for row in rows(admin, marked)] == [
        "SET EMERGENCY ACCESS REASON 'the alarm' FOR 1 MINUTE ON t",
        "SHOW EMERGENCY ACCESS",
        SELECT,
        "END EMERGENCY ACCESS",
    ]
    lifted = one(admin, f"SELECT policies FROM system.audit WHERE emergency = '{access['id']}' AND statement LIKE 'SELECT%'")
    assert f'"lifted_by":"{access["id"]}"' in lifted


def test_a_killed_session_and_a_restart_end_it_and_the_list_keeps_it(server, ana, officer):
    run(ana, "SET EMERGENCY ACCESS REASON 'killed'")
    killed = accesses(officer)[0]["id"]
    with server.connect() as admin:
        run(admin, f"KILL SESSION '{accesses(officer)[0]['session_id']}'")
    until(lambda: [it["end_cause"] for it in accesses(officer) if it["id"] == killed] == ["session over"])
    with server.connect("ana", "ana-password") as again:
        assert rows(again, SELECT) == GOVERNED
        run(again, "SET EMERGENCY ACCESS REASON 'once more'")
        assert rows(again, SELECT) == LIFTED
    with server.connect("ana", "ana-password") as again:
        run(again, "SET EMERGENCY ACCESS REASON 'restarted'")
        server.kill()
        server.start()
    with server.connect("officer", "officer-password") as officer:
        listed = {it["reason"]: (it["state"], it["end_cause"]) for it in accesses(officer)}
        assert listed["killed"] == ("over", "session over")
        assert listed["restarted"] == ("over", "server restarted")
    with server.connect("ana", "ana-password") as ana, server.connect() as admin:
        assert rows(ana, SELECT) == GOVERNED
        ends = "SELECT count(*) FROM system.audit WHERE statement LIKE '-- emergency access % is over: server restarted' AND emergency IS NOT NULL"
        assert one(admin, ends) == 1
