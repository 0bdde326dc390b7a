"""Row policies whose text asks other tables, through the driver: made, used, closed, dropped."""

import pytest

import support
from support import failure, one, rows, run

PASSWORD = "a long password"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA h",
                "CREATE SCHEMA maps",
                "CREATE TABLE h.events AS SELECT value AS id, value % 10 AS region, CASE WHEN value % 10 = 2 THEN 1 ELSE 0 END AS x FROM generate_series(1, 1000)",
                "CREATE TABLE maps.assigned AS SELECT * FROM (VALUES ('rui', 2), ('eva', 3), ('eva', 4)) AS v(who, area)",
                *(f"CREATE USER {name} PASSWORD '{PASSWORD}'" for name in ("rui", "eva", "joe", "officer")),
                *(f"GRANT SELECT ON TABLE h.events TO USER {name}" for name in ("rui", "eva", "joe")),
                "GRANT SELECT ON TABLE maps.assigned TO USER officer",
                "GRANT MANAGE POLICIES ON SCHEMA h TO USER officer",
                "GRANT SELECT ON SCHEMA h TO USER officer",
            )
            with server.connect("officer", PASSWORD) as officer:
                run(
                    officer,
                    "USE lazaret.maps",
                    "CREATE POLICY assigned ON TABLE h.events TO ALL USING (region IN (SELECT area FROM assigned WHERE who = current_user))",
                )
        yield server


@pytest.fixture
def connect(server):
    opened = []

    def connect(user):
        opened.append(server.connect(user, PASSWORD))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.mark.parametrize(("user", "regions"), [("rui", [2]), ("eva", [3, 4]), ("joe", [])])
def test_a_mapping_table_chooses_the_rows(connect, user, regions):
    connection = connect(user)
    assert rows(connection, "SELECT DISTINCT region FROM h.events ORDER BY region") == [(region,) for region in regions]
    assert one(connection, "SELECT count(*) FROM h.events") == 100 * len(regions)
    assert rows(connection, "SELECT id FROM h.events WHERE region = ? ORDER BY id LIMIT 1", (2,)) == ([(2,)] if 2 in regions else [])


def test_numbers_that_do_not_fit_raise_nothing_on_hidden_rows(server, connect):
    """Not what the reader computes, and not what the policy does."""
    with server.connect() as admin:
        run(
            admin,
            "CREATE TABLE h.large AS SELECT value AS id, value % 10 AS region, "
            "CASE WHEN value % 10 = 2 THEN 1 ELSE 9223372036854775807 END AS n FROM generate_series(1, 100)",
            *(f"GRANT SELECT ON TABLE h.large TO USER {name}" for name in ("rui", "eva")),
            "CREATE POLICY fits ON TABLE h.large TO ALL USING (n + 1 > 0 AND region IN (SELECT area FROM lazaret.maps.assigned WHERE who = current_user))",
        )
    assert rows(connect("rui"), "SELECT count(*), sum(n + 1), min(-n) FROM h.large WHERE n * 2 > 0 AND abs(-n) > 0") == [(10, 20, -1)]
    assert one(connect("eva"), "SELECT count(*) FROM h.large WHERE n * 2 > 0") == 0
    assert "BIGINT out of range" in str(failure(connect("rui"), "SELECT n + 9223372036854775807 FROM h.large"))


def test_hidden_rows_raise_nothing(connect):
    assert rows(connect("rui"), "SELECT sum(1 / x) FROM h.events WHERE 1 / x > 0") == [(100,)]


def test_the_mapping_table_stays_unseen(connect):
    rui = connect("rui")
    assert "not found" in str(failure(rui, "SELECT * FROM maps.assigned"))
    plan = "\n".join(row[1] for row in rows(rui, "EXPLAIN ANALYZE SELECT * FROM h.events"))
    assert "SecurityBarrierExec" in plan
    assert not any(word in plan for word in ("assigned", "area", "Join", "region IN"))


def test_a_change_of_the_mapping_is_seen_at_once(server, admin, connect):
    run(
        admin,
        "CREATE TABLE maps.moving AS SELECT 'rui' AS who, 5 AS area",
        "CREATE TABLE h.moved AS SELECT * FROM h.events LIMIT 0",
        "DROP TABLE h.moved",
        "CREATE VIEW maps.current AS SELECT * FROM maps.moving",
        "CREATE TABLE h.second AS SELECT value AS id, value % 10 AS region FROM generate_series(1, 100)",
        "GRANT SELECT ON TABLE h.second TO USER rui",
        "CREATE POLICY p ON TABLE h.second TO ALL USING (EXISTS (SELECT 1 FROM maps.current c WHERE c.who = current_user AND c.area = second.region))",
    )
    rui = connect("rui")
    assert rows(rui, "SELECT DISTINCT region FROM h.second") == [(5,)]
    run(admin, "CREATE OR REPLACE VIEW maps.current AS SELECT 'rui' AS who, 7 AS area")
    assert rows(rui, "SELECT DISTINCT region FROM h.second") == [(7,)]


def test_what_a_policy_reads_is_dropped_with_cascade_only_and_closes(admin, connect):
    run(
        admin,
        "CREATE TABLE maps.gone AS SELECT 'rui' AS who, 1 AS area",
        "CREATE TABLE h.third AS SELECT value % 10 AS region FROM generate_series(1, 100)",
        "GRANT SELECT ON TABLE h.third TO USER rui",
        "CREATE POLICY p ON TABLE h.third TO USER rui USING (region IN (SELECT area FROM maps.gone))",
    )
    rui = connect("rui")
    assert one(rui, "SELECT count(*) FROM h.third") == 10
    error = str(failure(admin, "DROP TABLE maps.gone"))
    assert "is read by a policy" in error and "CASCADE" in error
    assert one(rui, "SELECT count(*) FROM h.third") == 10
    run(admin, "DROP TABLE maps.gone CASCADE")
    closed = str(failure(rui, "SELECT count(*) FROM h.third"))
    assert "closed" in closed and "gone" not in closed
    # Another table of that name is not the one that was meant.
    run(admin, "CREATE TABLE maps.gone AS SELECT 'rui' AS who, 1 AS area")
    assert "closed" in str(failure(rui, "SELECT count(*) FROM h.third"))
    run(admin, "CREATE OR REPLACE POLICY p ON TABLE h.third TO USER rui USING (region IN (SELECT area FROM maps.gone))")
    assert one(rui, "SELECT count(*) FROM h.third") == 10


def test_the_creators_right_is_stored(admin, connect):
    run(
        admin,
        "CREATE TABLE maps.lent AS SELECT 3 AS area",
        "GRANT SELECT ON TABLE maps.lent TO USER officer",
        "CREATE TABLE h.fourth AS SELECT value % 10 AS region FROM generate_series(1, 100)",
        "GRANT SELECT ON TABLE h.fourth TO USER rui",
    )
    run(connect("officer"), "CREATE POLICY p ON TABLE h.fourth TO USER rui USING (region IN (SELECT area FROM maps.lent))")
    rui = connect("rui")
    assert one(rui, "SELECT count(*) FROM h.fourth") == 10
    run(admin, "REVOKE SELECT ON TABLE maps.lent FROM USER officer")
    assert "closed" in str(failure(rui, "SELECT count(*) FROM h.fourth"))
    run(admin, "GRANT SELECT ON TABLE maps.lent TO USER officer")
    assert one(rui, "SELECT count(*) FROM h.fourth") == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("region IN (SELECT area FROM maps.nothing)", "not found"),
        ("region IN (SELECT wrong FROM maps.assigned)", "wrong"),
        ("region IN (SELECT area FROM maps.assigned WHERE random() < 0.5)", "random"),
        ("EXISTS (SELECT 1 FROM maps.assigned AS events WHERE events.area = 1)", "alias"),
        ("(SELECT max(area) FROM maps.assigned)", "BOOLEAN"),
    ],
)
def test_a_text_that_does_not_bind_changes_nothing(admin, text, said):
    before = rows(admin, "SHOW POLICIES")
    assert said in str(failure(admin, f"CREATE POLICY bad ON TABLE h.events TO ALL USING ({text})"))
    assert rows(admin, "SHOW POLICIES") == before


def test_on_a_schema(admin, connect):
    run(
        admin,
        "CREATE SCHEMA wide",
        "CREATE TABLE wide.a AS SELECT value % 10 AS region FROM generate_series(1, 100)",
        "CREATE TABLE wide.b AS SELECT 1 AS other",
        "GRANT SELECT ON SCHEMA wide TO USER eva",
        "CREATE POLICY p ON SCHEMA wide TO ALL USING (region IN (SELECT area FROM maps.assigned WHERE who = current_user))",
    )
    eva = connect("eva")
    assert one(eva, "SELECT count(*) FROM wide.a") == 20
    assert "closed" in str(failure(eva, "SELECT count(*) FROM wide.b"))
