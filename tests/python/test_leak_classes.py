"""The ways in which others leaked, each that has shipped in somebody's release: one test for each class.

A class that is tried in depth elsewhere has a short test here and names the others, which must exist. Where a class cannot
be closed, docs/security.md says so, and the last test here looks that it does.
"""

import re
from collections import Counter
from pathlib import Path

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import support
from support import ROOT, Raw, failure, literal, one, protobuf, rows, run, table
from test_no_leak import PASSWORD, as_statement

STATUS = adbc_driver_manager.AdbcStatusCode

# Rows of region 2 are rui's. The others have what fails, and a text that must be nowhere.
SECRET = "HIDDEN"
SETUP = [
    "CREATE SCHEMA s",
    "CREATE SCHEMA closed",
    "CREATE SCHEMA own",
    f"""CREATE TABLE s.t AS SELECT value AS id, value % 4 AS region, CASE WHEN value % 4 = 2 THEN 7 ELSE 5 END AS x,
        CASE WHEN value % 4 = 2 THEN CAST(value AS VARCHAR) ELSE concat('{SECRET}-', CAST(value AS VARCHAR)) END AS name,
        {{'a': value, 'b': [concat('tag', CAST(value AS VARCHAR))]}} AS st
        FROM generate_series(1, 400)""",
    "CREATE TABLE closed.x AS SELECT 'HIDDEN' AS secret",
    "CREATE VIEW s.v AS SELECT id, region, x, name FROM s.t WHERE 10 / x > 0",
    f"CREATE USER rui PASSWORD '{PASSWORD}'",
    f"CREATE USER eva PASSWORD '{PASSWORD}'",
    "GRANT SELECT ON TABLE s.t TO USER rui, USER eva",
    "GRANT SELECT ON VIEW s.v TO USER rui",
    "GRANT CREATE ON SCHEMA own TO USER rui",
    "CREATE POLICY two ON TABLE s.t TO USER rui USING (region = 2)",
    "CREATE POLICY three ON TABLE s.t TO USER eva USING (region = 3)",
]
VISIBLE = 100


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(admin, *SETUP)
        yield server


@pytest.fixture(scope="module")
def rui(server):
    with server.connect("rui", PASSWORD) as connection:
        yield connection


@pytest.fixture(scope="module")
def eva(server):
    with server.connect("eva", PASSWORD) as connection:
        yield connection


def covered(*tests):
    """The tests that try the class in depth are there: `file::name`, or a transcript."""
    for test in tests:
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"\b(def|fn) {name}\b", text), f"{test} is gone"
        if path.endswith(".slt"):
            assert re.search(rf"\b{Path(path).stem}\b", (ROOT / "tests/integration/transcripts.rs").read_text()), f"{path} is not run"


def refused(call):
    with pytest.raises((flight.FlightError, pa.ArrowException, OSError, adbc_driver_manager.Error)) as caught:
        call()
    assert SECRET not in str(caught.value)
    return str(caught.value)


# --- a second door ---


def test_second_door_every_entry_has_the_policy(server, rui):
    """Flight without a rewrite, prepared statements, parameters, other calls: StarRocks, Spice."""
    sql = "SELECT count(*) AS n, min(region) AS low, max(region) AS high FROM s.t"
    raw = Raw(server, "rui", PASSWORD)
    answers = [
        rows(rui, sql),
        rows(rui, f"SELECT * FROM ({sql}) AS q WHERE CAST(? AS BIGINT) = 1", [1]),
        [tuple(as_statement(rui, sql).to_pylist()[0].values())],
        [tuple(raw.fetch(raw.info(sql).endpoints[0].ticket).to_pylist()[0].values())],
    ]
    with rui.cursor() as cursor:
        partitions, _ = cursor.adbc_execute_partitions(sql)
        cursor.adbc_read_partition(partitions[0])
        answers.append([tuple(row) for row in cursor.fetchall()])
    assert answers == [[(VISIBLE, 2, 2)]] * len(answers)
    covered("tests/integration/matrix.rs::the_access_matrix_is_the_one_that_was_read", "tests/python/test_no_leak.py::test_query")
    covered("tests/integration/oracle.rs::governed_tables_answer_as_their_copies_through_the_server")


def test_second_door_sql_is_no_ticket(server):
    """SQL text as the ticket: Sail."""
    raw = Raw(server, "rui", PASSWORD)
    for ticket in (b"SELECT * FROM closed.x", b"SELECT * FROM s.t", b"", b"s.t"):
        refused(lambda: raw.fetch(flight.Ticket(ticket)))
    covered("tests/integration/doors.rs::a_ticket_is_of_no_use_to_another")


def test_second_door_nothing_without_a_credential(server):
    client = flight.connect(server.url)
    command = protobuf(1, b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery") + protobuf(2, protobuf(1, b"SELECT 1"))
    texts = {
        refused(lambda: client.get_flight_info(flight.FlightDescriptor.for_command(command))),
        refused(lambda: client.do_get(flight.Ticket(command)).read_all()),
        refused(lambda: client.get_schema(flight.FlightDescriptor.for_command(command))),
        refused(lambda: list(client.list_actions())),
    }
    assert all("nauthenticated" in text or "UNAUTHENTICATED" in text for text in texts), texts
    covered("tests/integration/doors.rs::nothing_answers_without_a_credential", "tests/python/test_bad_input.py::test_credential")


def test_second_door_stolen_and_replayed_tickets(server):
    """A ticket is its maker's; the maker who has lost the right has lost the ticket."""
    mine = Raw(server, "rui", PASSWORD).info("SELECT * FROM s.t").endpoints[0].ticket
    refused(lambda: Raw(server, "eva", PASSWORD).fetch(mine))
    raw = Raw(server, "rui", PASSWORD)
    first = raw.fetch(mine)
    assert first.num_rows == VISIBLE
    # Fetched again it is refused, or it is the same rows under the policy of now.
    try:
        assert raw.fetch(mine).num_rows == VISIBLE
    except (flight.FlightError, pa.ArrowException) as error:
        assert SECRET not in str(error)
    damaged = bytearray(raw.info("SELECT * FROM s.t").endpoints[0].ticket.ticket)
    for place in range(0, len(damaged), 7):
        other = bytes(damaged[:place]) + bytes([damaged[place] ^ 1]) + bytes(damaged[place + 1 :])
        try:
            assert raw.fetch(flight.Ticket(other)).num_rows <= VISIBLE
        except (flight.FlightError, pa.ArrowException) as error:
            assert SECRET not in str(error)
    covered("tests/python/test_no_leak.py::test_a_ticket_of_somebody_else_is_worthless")


def test_second_door_stolen_handles(server):
    """A prepared statement's handle in other hands."""
    raw, other = Raw(server, "rui", PASSWORD), Raw(server, "eva", PASSWORD)
    kind = b"type.googleapis.com/arrow.flight.protocol.sql."
    body = protobuf(1, kind + b"ActionCreatePreparedStatementRequest") + protobuf(2, protobuf(1, b"SELECT id, region FROM s.t"))
    (answer,) = raw.client.do_action(flight.Action("CreatePreparedStatement", body), raw.options)
    # Of the Any around it the value, and of that the first field: the handle.
    handle = fields(fields(answer.body.to_pybytes())[2])[1]
    command = protobuf(1, kind + b"CommandPreparedStatementQuery") + protobuf(2, protobuf(1, handle))
    assert raw.fetch(raw.client.get_flight_info(flight.FlightDescriptor.for_command(command), raw.options).endpoints[0].ticket).num_rows == VISIBLE
    refused(lambda: other.client.get_flight_info(flight.FlightDescriptor.for_command(command), other.options))
    refused(lambda: other.fetch(flight.Ticket(command)))
    close = protobuf(1, kind + b"ActionClosePreparedStatementRequest") + protobuf(2, protobuf(1, handle))
    refused(lambda: list(other.client.do_action(flight.Action("ClosePreparedStatement", close), other.options)))
    assert raw.fetch(raw.client.get_flight_info(flight.FlightDescriptor.for_command(command), raw.options).endpoints[0].ticket).num_rows == VISIBLE


def fields(message):
    """The length-delimited fields of a protobuf message, by number."""
    found, place = {}, 0
    while place < len(message):
        tag, place = varint(message, place)
        size, place = varint(message, place)
        if tag & 7 == 0:
            continue
        found.setdefault(tag >> 3, message[place : place + size])
        place += size
    return found


def varint(message, place):
    value, shift = 0, 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def test_second_door_info_runs_nothing_twice(server, admin):
    """GetFlightInfo that runs a change several times: Doris."""
    raw = Raw(server, "admin_of_doors", PASSWORD)
    raw.info("CREATE TABLE s.once AS SELECT 1 AS a")
    assert one(admin, "SELECT count(*) FROM s.once") == 1
    assert one(admin, "SELECT count(*) FROM system.audit WHERE statement = 'CREATE TABLE s.once AS SELECT 1 AS a'") == 1
    run(admin, "DROP TABLE s.once")
    covered("tests/python/test_adbc.py::test_ddl_runs_once", "tests/python/test_adbc.py::test_ctas_runs_once_and_counts")


@pytest.fixture(scope="module", autouse=True)
def doors(admin):
    run(admin, f"CREATE USER admin_of_doors PASSWORD '{PASSWORD}'", "GRANT ALL ON SCHEMA s TO USER admin_of_doors")


# --- the optimizer ---


def test_optimizer_fallible_predicates_stay_above(rui):
    """Conjuncts that are merged, reordered or pushed below the policy: CockroachDB, Trino, Materialize, ClickHouse."""
    for condition in ("100 / (x - 5) > 0", "CAST(name AS BIGINT) > 0", "region = 2 AND CAST(name AS BIGINT) > 0", "x = 7 OR 1 / (x - 5) > 9"):
        assert one(rui, f"SELECT count(*) FROM s.t WHERE {condition}") == VISIBLE
        assert one(rui, f"SELECT count(*) FROM s.v WHERE {condition}") == VISIBLE
    covered(
        "catalog/src/governed/probes.rs::probes_over_parquet_end_as_on_a_filtered_copy",
        "catalog/src/governed/oracle.rs::governed_tables_answer_as_their_copies",
        "catalog/src/governed/oracle.rs::the_oracle_finds_what_is_broken",
    )


def test_optimizer_limits_and_sorts_stay_above(rui):
    """LIMIT or a sort below the filter: Databend."""
    assert one(rui, "SELECT count(*) FROM (SELECT id FROM s.t LIMIT 100) AS q") == VISIBLE
    assert rows(rui, "SELECT id FROM s.t ORDER BY name DESC, id LIMIT 1") == [(98,)]
    assert rows(rui, "SELECT id FROM s.t ORDER BY id OFFSET 99 LIMIT 5") == [(398,)]


def test_optimizer_dynamic_filters(rui):
    """A join's values that prune hidden rows away must not be seen to."""
    sql = "SELECT count(*) FROM (VALUES (1), (2), (3)) AS w (k) JOIN s.t ON s.t.id = w.k AND 1 / (s.t.x - 5) >= 0"
    assert one(rui, sql) == 1
    assert one(rui, "SELECT count(*) FROM (VALUES (1), (5)) AS w (k) LEFT JOIN s.t ON s.t.id = w.k WHERE s.t.id IS NULL") == 2


def test_optimizer_statistics_answer_nothing(rui):
    """Counts and bounds out of statistics: ClickHouse, PostgreSQL CVE-2017-7484 and after."""
    assert rows(rui, "SELECT count(*), min(id), max(id), min(name), max(name), min(x) FROM s.t") == [(VISIBLE, 2, 398, "10", "98", 7)]
    raw = rows(rui, "EXPLAIN ANALYZE SELECT count(*) FROM s.t WHERE x = 5")
    assert not re.search(r"\b(400|300)\b|row_groups|pruned", str(raw)), raw
    covered("tests/python/test_reads.py::test_pruning_under_a_policy")


def test_optimizer_plans_and_results_of_others(server, admin, rui, eva):
    """A plan or a result in a cache under another principal: PostgreSQL CVE-2023-2455, CVE-2024-10976."""
    sql = "SELECT count(*), min(region), max(region) FROM s.t"
    for _ in range(3):
        assert rows(rui, sql) == [(100, 2, 2)]
        assert rows(eva, sql) == [(100, 3, 3)]
        assert rows(admin, sql) == [(0, None, None)]
    covered("tests/integration/requests.rs::second_run_reads_no_metadata", "tests/python/test_reads.py::test_second_run_of_another_user_reads_no_metadata")


# --- the side entrance to the same bytes ---


def test_side_entrance_functions_on_files(rui, server):
    file = next((server.data_dir / "warehouse").rglob("*.parquet"))
    for source in (f"read_parquet({literal(file)})", f"parquet_metadata({literal(file)})", literal(file), f'"{file}"', "glob('/etc/*')"):
        assert failure(rui, f"SELECT * FROM {source}").status_code in (STATUS.NOT_FOUND, STATUS.INVALID_ARGUMENT, STATUS.NOT_IMPLEMENTED)
    for statement in (f"COPY s.t TO {literal(file)}", f"COPY s.t FROM {literal(file)}"):
        assert failure(rui, statement).status_code == STATUS.NOT_IMPLEMENTED


def test_side_entrance_a_second_table_on_the_location(admin, rui, server):
    folder = next(path.parent for path in (server.data_dir / "warehouse").rglob("_delta_log"))
    run(admin, "GRANT READ FILES ON SYSTEM TO USER rui")
    for location in (folder, folder / "_delta_log", folder.parent, next(folder.glob("*.parquet"))):
        for form in ("DELTA", "PARQUET"):
            failure(rui, f"CREATE EXTERNAL TABLE own.mine STORED AS {form} LOCATION {literal(location)}")
    run(admin, "REVOKE READ FILES ON SYSTEM FROM USER rui")
    covered(
        "tests/python/test_territory.py::test_files_of_another_table_are_not_registered",
        "tests/python/test_territory.py::test_a_table_that_comes_to_name_the_files_of_another_closes",
        "tests/python/test_territory.py::test_symbolic_links_lead_nowhere",
        "tests/transcripts/external_tables.slt",
    )


def test_side_entrance_views(admin, rui):
    """A view shows who asks what they may see, whoever owns it."""
    assert one(rui, "SELECT count(*) FROM s.v") == VISIBLE
    run(rui, "CREATE VIEW own.mine AS SELECT * FROM s.t")
    run(admin, "GRANT SELECT ON VIEW own.mine TO USER eva")
    assert one(rui, "SELECT count(*) FROM own.mine") == VISIBLE
    assert one(admin, "SELECT count(*) FROM own.mine") == 0
    assert failure(rui, "CREATE VIEW own.theirs AS SELECT * FROM closed.x").status_code == STATUS.NOT_FOUND
    covered("tests/transcripts/views.slt", "tests/python/test_masks.py::test_a_view_masks_for_who_reads_it")


def test_side_entrance_create_table_as(admin, rui, eva):
    """The copy holds what its maker could see, and is its maker's."""
    run(rui, "CREATE TABLE own.copy AS SELECT * FROM s.t")
    assert rows(admin, "SELECT count(*), min(region), max(region) FROM own.copy") == [(VISIBLE, 2, 2)]
    assert SECRET not in str(table(admin, "SELECT * FROM own.copy").to_pylist())
    assert failure(eva, "SELECT * FROM own.copy").status_code == STATUS.NOT_FOUND
    assert ("SELECT" in str(rows(rui, "SHOW GRANTS ON TABLE own.copy"))) or ("ALL" in str(rows(rui, "SHOW GRANTS ON TABLE own.copy")))
    run(rui, "DROP TABLE own.copy")


def test_side_entrance_time_travel_history_and_metadata_tables(rui):
    """To before the policy, the change feed, history and bounds."""
    for sql in (
        "SELECT * FROM s.t VERSION AS OF 0",
        "SELECT * FROM s.t TIMESTAMP AS OF '2020-01-01'",
        "SELECT * FROM s.t FOR SYSTEM_TIME AS OF '2020-01-01'",
        "SELECT * FROM table_changes('s.t', 0)",
        "DESCRIBE HISTORY s.t",
        'SELECT * FROM s."t$files"',
        "SELECT * FROM s.t$snapshots",
        "SELECT * FROM s.t$partitions",
    ):
        error = failure(rui, sql)
        assert error.status_code in (STATUS.NOT_IMPLEMENTED, STATUS.NOT_FOUND, STATUS.INVALID_ARGUMENT) and SECRET not in str(error), sql
    covered("tests/transcripts/unsupported.slt")


def test_side_entrance_locations_and_credentials(rui):
    """Where files lie, and what opens them, is told to nobody who only reads: Trino CVE-2026-34214."""
    texts = [rows(rui, "SELECT * FROM system.settings"), rows(rui, "SHOW SETTINGS"), rows(rui, "SELECT * FROM information_schema.tables")]
    texts += [str(failure(rui, "SHOW CREATE TABLE s.t")) if fails(rui, "SHOW CREATE TABLE s.t") else rows(rui, "SHOW CREATE TABLE s.t")]
    for word in ("warehouse", "file:", "secret_access_key", ".parquet"):
        assert word not in str(texts), word


def fails(connection, sql):
    try:
        table(connection, sql)
    except adbc_driver_manager.Error:
        return True
    return False


# --- the rewriter ---


def test_rewriter_names_that_hide_the_table(server):
    """A CTE, an alias or a column of the table's name."""
    with server.connect("rui", PASSWORD) as rui:
        assert one(rui, "WITH t AS (SELECT * FROM s.t) SELECT count(*) FROM t") == VISIBLE
        run(rui, "USE lazaret.s")
        assert one(rui, "WITH t AS (SELECT * FROM t WHERE 1 / (x - 5) >= 0) SELECT count(*) FROM t") == VISIBLE
        assert one(rui, "WITH v AS (SELECT * FROM t), t AS (SELECT * FROM v) SELECT count(*) FROM t") == VISIBLE
        assert one(rui, "SELECT count(*) FROM t AS closed JOIN t AS v ON closed.id = v.id") == VISIBLE


def test_rewriter_subqueries(rui):
    """Correlated ones, in every clause, under joins and in VALUES."""
    for sql in (
        "SELECT (SELECT count(*) FROM s.t AS i WHERE i.region = o.region) FROM s.t AS o LIMIT 1",
        "SELECT count(*) FROM (VALUES (1)) AS w (k) JOIN LATERAL (SELECT id FROM s.t WHERE x >= w.k) AS l ON true",
        "SELECT count(*) FROM s.t WHERE id IN (SELECT id FROM s.t AS i WHERE i.x = s.t.x)",
        "SELECT w.n FROM (VALUES ((SELECT count(*) FROM s.t))) AS w (n)",
        "SELECT max(n) FROM (SELECT count(*) OVER () AS n FROM s.t) AS q",
        "SELECT count(*) FROM s.t GROUP BY region HAVING count(*) = (SELECT count(*) FROM s.t)",
        "SELECT count(*) FROM s.t ORDER BY (SELECT count(*) FROM s.t)",
        "SELECT count(*) FROM (s.t AS a JOIN s.t AS b ON a.id = b.id) JOIN s.t AS c ON c.id = a.id",
    ):
        try:
            assert set(rows(rui, sql)) == {(VISIBLE,)}, sql
        except adbc_driver_manager.Error as error:
            assert error.status_code in (STATUS.NOT_IMPLEMENTED, STATUS.INVALID_ARGUMENT) and SECRET not in str(error), (sql, error)
    covered("tests/transcripts/hostile_queries.slt")


def test_rewriter_several_statements_in_one_text(rui, admin):
    for sql in ("SELECT 1; SELECT * FROM s.t", "SELECT 1; DROP TABLE s.t", "SET batch_size = 1; SELECT * FROM closed.x", "SELECT 1 -- \n; SELECT 2"):
        assert failure(rui, sql).status_code in (STATUS.INVALID_ARGUMENT, STATUS.NOT_IMPLEMENTED), sql
    assert one(rui, "SELECT count(*) FROM s.t /* ; SELECT 1 */") == VISIBLE


def test_rewriter_a_text_cannot_leave_its_policy(admin, rui):
    """A policy's text that would end its expression, or begin another."""
    for text in ("true) OR (true", "true; SELECT 1", "region = 2 UNION SELECT true", "region = 2 -- )"):
        assert failure(admin, f"CREATE POLICY bad ON TABLE s.t TO USER rui USING ({text})").status_code == STATUS.INVALID_ARGUMENT, text
    assert one(rui, "SELECT count(*) FROM s.t") == VISIBLE


# --- the policy itself ---


def test_policy_words_in_any_case(admin, rui):
    """A keyword in another case that matches nothing: Doris."""
    run(admin, "create table s.cased as select value as id from generate_series(1, 10)", "grant select on table s.cased to user RUI")
    run(admin, "CrEaTe PoLiCy P oN tAbLe s.cased aS pErMiSsIvE fOr SeLeCt To UsEr RuI uSiNg (ID = 1)")
    run(admin, "create policy q on table s.cased as RESTRICTIVE for all to all using (id < 5)")
    assert rows(rui, "SELECT id FROM s.cased") == [(1,)]
    assert failure(admin, "CREATE POLICY r ON TABLE s.cased AS RESTRICTIV TO ALL USING (true)").status_code == STATUS.INVALID_ARGUMENT
    run(admin, "DROP TABLE s.cased")
    covered("tests/transcripts/row_policies.slt")


def test_policy_that_is_not_boolean(admin):
    """A value that is made a boolean in silence."""
    for text in ("1", "'true'", "NULL", "region", "name", "region + 1"):
        assert failure(admin, f"CREATE POLICY bad ON TABLE s.t TO USER rui USING ({text})").status_code == STATUS.INVALID_ARGUMENT, text
    covered("tests/python/test_no_leak.py::test_a_policy_must_be_boolean_and_bind", "catalog/src/governed/bind.rs::a_new_policy_is_boolean_pure_and_without_doubt")


def test_policy_users_that_it_does_not_mention(admin, server):
    """Who is not named sees no rows, and not all of them: ClickHouse."""
    run(admin, f"CREATE USER zoe PASSWORD '{PASSWORD}'", "GRANT SELECT ON TABLE s.t TO USER zoe")
    with server.connect("zoe", PASSWORD) as zoe:
        assert one(zoe, "SELECT count(*) FROM s.t") == 0
        run(admin, "CREATE POLICY narrow ON TABLE s.t AS RESTRICTIVE TO USER rui USING (id > 0)")
        assert one(zoe, "SELECT count(*) FROM s.t") == 0
    run(admin, "DROP POLICY narrow ON TABLE s.t", "DROP USER zoe")
    covered("tests/python/test_no_leak.py::test_nobody_is_exempt_by_rank", "tests/python/test_no_leak.py::test_permissive_restrictive_and_null")


def test_policy_the_window_when_the_last_one_is_dropped(admin, rui):
    run(admin, "CREATE TABLE s.window AS SELECT value AS id FROM generate_series(1, 10)", "GRANT SELECT ON TABLE s.window TO USER rui")
    run(admin, "CREATE POLICY p ON TABLE s.window TO USER rui USING (id = 1)")
    assert one(rui, "SELECT count(*) FROM s.window") == 1
    run(admin, "DROP POLICY p ON TABLE s.window")
    assert one(rui, "SELECT count(*) FROM s.window") == 0
    # Another policy in the place of one is never none in between.
    run(admin, "CREATE POLICY p ON TABLE s.window TO USER rui USING (id = 1)", "CREATE OR REPLACE POLICY p ON TABLE s.window TO USER rui USING (id < 3)")
    assert one(rui, "SELECT count(*) FROM s.window") == 2
    run(admin, "DROP TABLE s.window", "CREATE TABLE s.window AS SELECT 1 AS id")
    assert failure(rui, "SELECT * FROM s.window").status_code == STATUS.NOT_FOUND
    run(admin, "DROP TABLE s.window")


def test_policy_an_upgrade_or_restart_keeps_it(tmp_path):
    """An upgrade that drops masks: Databend."""
    with support.serving(tmp_path / "server") as server:
        with server.connect() as admin:
            run(admin, f"CREATE USER rui PASSWORD '{PASSWORD}'", "CREATE TABLE t AS SELECT value AS id, 'raw' AS name FROM generate_series(1, 5)")
            run(admin, "GRANT SELECT ON TABLE t TO USER rui", "CREATE POLICY p ON TABLE t TO USER rui USING (id < 3)")
            run(admin, "CREATE MASKING POLICY m ON TABLE t (name) TO ALL USING ACTION mask_alphanum")
        for stopped in (server.stop, server.kill):
            stopped()
            server.start()
            with server.connect("rui", PASSWORD) as rui:
                assert Counter(rows(rui, "SELECT id, name FROM t")) == Counter([(1, "xxx"), (2, "xxx")])
    covered("tests/python/test_restart.py::test_tokens_and_grants_survive")


def test_policy_a_mask_covers_the_children_of_a_struct(admin, rui):
    run(admin, "CREATE MASKING POLICY st ON TABLE s.t (st) TO USER rui USING ACTION replace_with_null")
    assert rows(rui, "SELECT count(st), count(st['a']), count(st['b']), count(st['b'][1]), max(st['a']) FROM s.t") == [(0, 0, 0, 0, None)]
    assert one(rui, "SELECT count(*) FROM s.t WHERE st['a'] = 2 OR st['b'][1] = 'tag2'") == 0
    run(admin, "DROP MASKING POLICY st ON s.t")
    covered("tests/python/test_masks.py::test_every_action_on_every_type", "tests/python/test_masks.py::test_raw_values_are_found_by_nothing")


# --- lakehouse only ---


def test_lakehouse_rewriting_loses_no_hidden_row(rui):
    """Compaction or a change under a filtered scan deletes what its user could not see. What rewrites files is refused."""
    for sql in ("OPTIMIZE s.t", "VACUUM s.t", "DELETE FROM s.t WHERE true", "UPDATE s.t SET x = 1", "TRUNCATE TABLE s.t"):
        assert failure(rui, sql).status_code in (STATUS.NOT_IMPLEMENTED, STATUS.UNAUTHORIZED), sql
    assert one(rui, "SELECT count(*) FROM s.t") == VISIBLE


# --- the words ---


def test_words_of_errors_carry_nothing(rui):
    for sql in (
        "SELECT 1 / (x - 7) FROM s.t",
        "SELECT CAST(concat('v', name) AS INT) FROM s.t",
        "SELECT nothing FROM s.t",
        "SELECT * FROM s.t WHERE st = 1",
        "SELECT sum(name) FROM s.t",
    ):
        error = str(failure(rui, sql))
        for word in (SECRET, "warehouse", ".parquet", "region = 2", "barrier", "panicked", "/src/"):
            assert word not in error, (sql, error)
    covered("tests/python/test_no_leak.py::test_an_error_is_that_of_the_copy", "tests/python/test_masks.py::test_a_mask_that_fails_says_nothing")


def test_words_hidden_is_as_not_there(rui):
    """"Forbidden" where "not found" would do."""
    for statement in ("SELECT * FROM closed.{}", "DESCRIBE closed.{}", "EXPLAIN SELECT * FROM closed.{}", "DROP TABLE closed.{}", "SELECT secret FROM closed.{}"):
        there, absent = (failure(rui, statement.format(name)) for name in ("x", "y"))
        assert there.status_code == absent.status_code == STATUS.NOT_FOUND
        assert re.sub(r"\bx\b", "y", str(there)) == str(absent)
    covered("tests/python/test_no_leak.py::test_missing_and_forbidden_are_the_same", "tests/transcripts/not_yours.slt")


def test_words_none_is_as_hidden(rui):
    """Suppressed told apart from zero."""
    assert rows(rui, "SELECT id FROM s.t WHERE id = 1") == rows(rui, "SELECT id FROM s.t WHERE id = 100000") == []
    assert rows(rui, "SELECT count(*), max(name) FROM s.t WHERE region = 3") == rows(rui, "SELECT count(*), max(name) FROM s.t WHERE region = 9")


def test_words_of_explain(rui):
    for explain in ("EXPLAIN", "EXPLAIN ANALYZE", "EXPLAIN VERBOSE", "EXPLAIN FORMAT TREE", "EXPLAIN ANALYZE VERBOSE", "EXPLAIN (ANALYZE, VERBOSE)", "EXPLAIN FORMAT PGJSON"):
        for query in ("SELECT id FROM s.t WHERE x = 5", "SELECT count(*) FROM s.v"):
            try:
                text = str(rows(rui, f"{explain} {query}"))
            except adbc_driver_manager.Error as error:
                text = str(error)
                assert error.status_code in (STATUS.NOT_IMPLEMENTED, STATUS.INVALID_ARGUMENT)
            for word in (SECRET, ".parquet", "warehouse", "region", "DataSourceExec", "predicate"):
                assert word not in text, (explain, query, text)
    covered("tests/python/test_no_leak.py::test_explain_stops_at_the_barrier", "tests/transcripts/explain.slt")


def test_words_of_information_schema(rui):
    text = str([rows(rui, f"SELECT * FROM information_schema.{name}") for name in ("schemata", "tables", "columns", "views")])
    assert "closed" not in text and "secret" not in text
    # The text of a view is its owner's.
    assert "10 / x" not in text
    covered("tests/python/test_no_leak.py::test_information_schema_and_show_are_filtered", "tests/integration/doors.rs::metadata_shows_what_may_be_read")


# --- the time of check is the time of use ---


def test_time_of_check_between_prepare_and_execute(admin, rui):
    sql = "SELECT count(*), max(region) FROM s.t"
    with rui.cursor() as cursor:
        cursor.adbc_prepare(sql)
        cursor.execute(sql)
        assert cursor.fetchall() == [(VISIBLE, 2)]
        run(admin, "CREATE OR REPLACE POLICY two ON TABLE s.t TO USER rui USING (region = 2 AND id < 10)")
        cursor.execute(sql)
        assert cursor.fetchall() == [(2, 2)]
        run(admin, "DENY SELECT (region) ON TABLE s.t TO USER rui")
        refused(lambda: cursor.execute(sql))
        run(admin, "REVOKE SELECT (region) ON TABLE s.t FROM USER rui", "CREATE OR REPLACE POLICY two ON TABLE s.t TO USER rui USING (region = 2)")
    covered("tests/python/test_no_leak.py::test_changes_between_prepare_and_execute", "tests/integration/doors.rs::what_is_revoked_is_revoked_for_plans_that_are_made")


def test_time_of_check_between_plan_and_fetch(server, admin):
    raw = Raw(server, "rui", PASSWORD)
    ticket = raw.info("SELECT id FROM s.t").endpoints[0].ticket
    run(admin, "CREATE OR REPLACE POLICY two ON TABLE s.t TO USER rui USING (region = 2 AND id < 10)")
    assert raw.fetch(ticket).num_rows == 2
    ticket = raw.info("SELECT id FROM s.t").endpoints[0].ticket
    run(admin, "REVOKE SELECT ON TABLE s.t FROM USER rui")
    refused(lambda: raw.fetch(ticket))
    run(admin, "GRANT SELECT ON TABLE s.t TO USER rui", "CREATE OR REPLACE POLICY two ON TABLE s.t TO USER rui USING (region = 2)")
    # Somebody of its own: with the account, its tokens end for good, and the other tests go on with rui's.
    run(admin, f"CREATE USER tia PASSWORD '{PASSWORD}'", "GRANT SELECT ON TABLE s.t TO USER tia")
    raw = Raw(server, "tia", PASSWORD)
    ticket = raw.info("SELECT id FROM s.t").endpoints[0].ticket
    run(admin, "ALTER USER tia DISABLE")
    refused(lambda: raw.fetch(ticket))
    run(admin, "DROP USER tia")
    covered("tests/python/test_no_leak.py::test_changes_between_plan_and_fetch", "tests/python/test_adbc.py::test_disabled_user_is_refused_on_the_next_call")


# --- tokens, and what comes from outside ---


def test_tokens(server):
    covered(
        "tests/python/test_bad_input.py::test_credential",
        "tests/python/test_adbc.py::test_unauthenticated_has_one_text",
        "tests/python/test_adbc.py::test_key_rotation",
        "auth/src/own_token.rs::the_key_file_is_private_or_refused",
    )
    for token in ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.", "a.b.c", ""):
        with pytest.raises(adbc_driver_manager.Error) as caught:
            with server.connect(token=token) as connection:
                one(connection, "SELECT 1")
        assert caught.value.status_code == STATUS.UNAUTHENTICATED


# --- what cannot be closed ---


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("Time", "takes longer when there is more hidden data"),
        ("Resources", "can depend on hidden rows"),
        ("Views", "computed before a policy on the view hides rows"),
        ("Repeated aggregates", "groups of one"),
        ("Masks", "equal values have equal hashes"),
    ],
)
def test_what_is_not_closed_is_said(what, words):
    text = (ROOT / "docs/security.md").read_text().split("## What is not closed")[1].split("\n## ")[0]
    (line,) = [line for line in text.splitlines() if line.startswith(f"- **{what}.**")]
    assert words in line


# --- what is read, and what is not ---


@pytest.fixture(scope="module")
def staff(server):
    """All of rui's salaries are 1000; the greatest of the others is 500887."""
    with server.connect() as admin:
        run(
            admin,
            "CREATE SCHEMA h",
            """CREATE TABLE h.staff AS SELECT value AS id, CASE WHEN value % 7 = 0 THEN 'rui' ELSE 'other' END AS owner,
                CASE WHEN value % 7 = 0 THEN 1000 ELSE 1000 + (value * 7919) % 500000 END AS salary FROM generate_series(1, 4000)""",
            "CREATE VIEW h.mine AS SELECT id, salary FROM h.staff WHERE owner = current_user",
            "GRANT SELECT ON VIEW h.mine TO USER rui",
            "CREATE TABLE h.own AS SELECT * FROM h.staff WHERE owner = 'rui'",
            "GRANT SELECT ON TABLE h.staff TO USER rui",
            "GRANT SELECT ON TABLE h.own TO USER rui",
            "CREATE POLICY own ON TABLE h.staff TO USER rui USING (owner = current_user)",
        )
    return [1001, 2000, 400000, 500000, 500887, 500888, 600000]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM {table} WHERE salary >= {x} AND 1 / (id - 7) >= 0",
        "SELECT id FROM {table} WHERE (id > 3000 OR salary >= {x}) AND 1 / (id - 7) >= 0",
        "SELECT count(*) FROM (VALUES ({x}), (1000000000000)) AS v (s) JOIN {table} t ON t.salary = v.s WHERE 1 / (t.id - 7) >= 0",
        "SELECT id FROM {table} WHERE salary IN (SELECT {x} + value FROM generate_series(0, 1000)) AND 1 / (id - 7) >= 0",
        "EXPLAIN SELECT id FROM {table} WHERE salary >= {x}",
        "EXPLAIN ANALYZE SELECT id FROM {table} WHERE salary >= {x}",
    ],
)
def test_optimizer_bounds_of_hidden_rows_show_in_nothing(server, rui, staff, sql):
    """A predicate that prunes reads less where no hidden row could match: neither an error, nor a plan, nor a count tells."""

    def told(table, x):
        try:
            answer = str(rows(rui, sql.format(table=table, x=x)))
        except adbc_driver_manager.Error as error:
            assert error.status_code != STATUS.UNAUTHENTICATED
            answer = re.sub(r"\(id \w+\)", "", str(error))
        return re.sub(r"\b(\d+(\.\d+)?[µnm]?s)\b|metrics=\[.*?\]", "", answer.replace(str(x), "X").replace(table, "T"))

    for table in ["h.staff", "h.mine"]:
        # No visible row lies between one and the other.
        assert len({told(table, x) for x in staff}) == 1, table


def test_views_a_denial_binds_inside_ones_own(server, rui):
    """With groups of an identity provider it is tried in test_identity.py."""
    covered("tests/python/test_identity.py::test_a_view_or_policy_of_ones_own_leads_past_no_group")
    with server.connect() as admin:
        run(
            admin,
            "CREATE ROLE externals",
            "GRANT ROLE externals TO USER rui",
            "CREATE TABLE s.secret AS SELECT 1 AS id, 'HIDDEN' AS ssn",
            "GRANT SELECT ON TABLE s.secret TO USER rui",
            "DENY SELECT (ssn) ON TABLE s.secret TO ROLE externals",
        )
    run(rui, "CREATE VIEW own.around AS SELECT * FROM s.secret")
    assert rows(rui, "SELECT * FROM own.around") == [(1,)]
    assert "not found" in refused(lambda: rows(rui, "SELECT ssn FROM own.around"))


def test_words_a_query_hides_no_literal_from_the_audit(server, rui):
    rows(rui, "SELECT count(*) FROM s.t AS secret WHERE (secret.name = 'asked for')")
    with server.connect() as admin:
        (text,) = rows(admin, "SELECT statement FROM system.audit WHERE statement LIKE '%AS secret WHERE%' AND principal = 'rui' LIMIT 1")[0]
    assert "'asked for'" in text


# --- one for all ---


@pytest.mark.parametrize("expression", ["x" + " % 97" * 200, "x" + " + 1" * 200])
def test_a_short_text_that_comes_to_much_stops_nobody(server, rui, expression):
    ctes = ", ".join(["a0 AS (SELECT id AS x FROM s.t)"] + [f"a{n} AS (SELECT {expression} AS x FROM a{n - 1})" for n in range(1, 40)])
    assert "too large" in str(failure(rui, f"WITH {ctes} SELECT x FROM a39"))
    assert "too large" in str(failure(rui, f"CREATE VIEW own.deep AS WITH {ctes} SELECT x FROM a39"))
    doubled = ", ".join(["b0 AS (SELECT 1 AS c)"] + [f"b{n} AS (SELECT x.c FROM b{n - 1} x, b{n - 1} y)" for n in range(1, 14)])
    assert "too large" in str(failure(rui, f"WITH {doubled} SELECT count(*) FROM b13"))
    assert rows(rui, "SELECT count(*) FROM s.t") == [(VISIBLE,)]


def test_words_no_function_tells_where_rows_lie_or_compares_for_ever(rui):
    for call in ["input_file_name()", "file_row_index()"]:
        assert "not found" in str(failure(rui, f"SELECT {call} FROM s.t"))
    assert "levenshtein" in str(failure(rui, "SELECT levenshtein(repeat('a', 3000000), repeat('b', 3000000))"))


def test_words_revoke_tells_nothing_to_who_may_not(server, rui):
    for sql in ["REVOKE SELECT (name) ON TABLE s.t FROM USER eva", "REVOKE SELECT ON TABLE s.t FROM ROLE nosuch"]:
        assert "grant option" in str(failure(rui, sql)), sql
