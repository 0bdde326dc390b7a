"""A masked column is what its mask makes of it, everywhere: rows, joins, groups, orders, counts, pruning, metadata, errors."""

import decimal
import json
import re

import adbc_driver_manager
import pyarrow as pa
import pytest

import support
from support import assert_same_multiset, failure, multiset, one, rows, run, table
from test_reads import figures

STATUS = adbc_driver_manager.AdbcStatusCode
PASSWORD = "a long password"

PEOPLE = """SELECT value AS id,
       concat('Ana ', CAST(100000000 + value * 7919 % 900000000 AS VARCHAR)) AS name,
       concat('PT-', CAST(100000 + value % 50 AS VARCHAR)) AS code,
       CAST(value % 10 AS INT) AS region,
       value * 1000003 % 97 AS score,
       CAST(value % 97 AS DECIMAL(12, 2)) / CAST(4 AS DECIMAL(12, 2)) AS ratio,
       CAST(value % 1000 AS DECIMAL(12, 2)) AS money,
       CASE WHEN value % 5 = 0 THEN NULL ELSE concat('note ', CAST(value AS VARCHAR)) END AS note,
       CAST('2024-03-08' AS DATE) + CAST(concat(CAST(value % 900 AS VARCHAR), ' days') AS INTERVAL) AS seen,
       arrow_cast(TIMESTAMP '2023-12-31 23:59:59.123456' + CAST(concat(CAST(value AS VARCHAR), ' hours') AS INTERVAL), 'Timestamp(Microsecond, None)') AS at,
       arrow_cast(TIMESTAMP '2023-12-31 23:59:59.123456' + CAST(concat(CAST(value AS VARCHAR), ' hours') AS INTERVAL), 'Timestamp(Microsecond, Some("UTC"))') AS atz,
       arrow_cast(concat('b', CAST(value AS VARCHAR)), 'Binary') AS raw,
       named_struct('first', concat('F', CAST(value AS VARCHAR)), 'tags', make_array('a1', concat('t', CAST(value AS VARCHAR)))) AS st,
       make_array(concat('x', CAST(value AS VARCHAR)), NULL) AS list,
       CASE WHEN value % 3 = 0 THEN NULL ELSE make_array(value) END AS numbers
FROM generate_series(1, 400)"""

ACTIONS = {
    "name": "mask_alphanum",
    "code": "show_last_4",
    "score": "sha256_global",
    "money": "replace_with_null",
    "note": "show_first_4",
    "seen": "truncate_to_month",
    "at": "truncate_to_year",
    "atz": "truncate_to_month",
    "raw": "sha256_global",
    "st": "mask_alphanum",
    "list": "show_first_4",
    "numbers": "replace_with_null",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA h",
                f"CREATE TABLE h.people AS {PEOPLE}",
                "CREATE TABLE h.other AS SELECT id, name, code, score FROM h.people WHERE id % 4 = 0",
                "CREATE TABLE h.guess AS SELECT DISTINCT name, code, score, note FROM h.people",
                "CREATE VIEW h.v AS SELECT id, name, code, region, score FROM h.people WHERE id > 10",
                *(f"CREATE USER {user} PASSWORD '{PASSWORD}'" for user in ("rui", "eva", "dpo", "bo")),
                *(f"CREATE ROLE {role}" for role in ("doctors", "nurses")),
                "GRANT SELECT ON SCHEMA h TO USER rui",
                "GRANT SELECT ON SCHEMA h TO USER eva",
                "GRANT SELECT ON SCHEMA h TO USER dpo",
                "GRANT MANAGE POLICIES ON SCHEMA h TO USER dpo",
            )
        yield server


@pytest.fixture(scope="module")
def rui(server):
    with server.connect("rui", PASSWORD) as connection:
        yield connection


@pytest.fixture(scope="module")
def eva(server):
    """Sees everything as it is."""
    with server.connect("eva", PASSWORD) as connection:
        yield connection


@pytest.fixture(scope="module")
def dpo(server):
    with server.connect("dpo", PASSWORD) as connection:
        yield connection


@pytest.fixture(scope="module")
def masked(admin, rui):
    """Every action at once, for rui, and a copy that holds what rui sees."""
    for column, action in ACTIONS.items():
        run(admin, f"CREATE MASKING POLICY m_{column} ON TABLE h.people ({column}) TO USER rui USING ACTION {action}")
    run(
        admin,
        "CREATE MASKING POLICY m_region ON TABLE h.people (region) TO USER rui USING (CASE WHEN id % 2 = 0 THEN region ELSE -1 END)",
        "GRANT CREATE ON SCHEMA h TO USER rui",
    )
    run(rui, "CREATE TABLE h.copy AS SELECT * FROM h.people", "CREATE VIEW h.copy_v AS SELECT id, name, code, region, score FROM h.copy WHERE id > 10")


def mask_alphanum(text):
    return "".join("n" if c in "0123456789" else c if c in "(),.-@" else "x" for c in text)


def first_4(text):
    """None of these has a form to keep."""
    shown = min(4, len(text) // 2)
    return text[:shown] + mask_alphanum(text[shown:])


def test_every_action_on_every_type(rui, eva, masked):
    raw, seen = table(eva, "SELECT * FROM h.people ORDER BY id"), table(rui, "SELECT * FROM h.people ORDER BY id")
    assert [(f.name, f.type) for f in seen.schema] == [(f.name, f.type) for f in raw.schema], "types are kept"
    assert seen["id"].equals(raw["id"]) and seen["ratio"].equals(raw["ratio"]), "what no mask is for is as it is"
    raw, seen = raw.to_pydict(), seen.to_pydict()
    assert seen["name"] == [mask_alphanum(name) for name in raw["name"]]
    assert seen["code"] == [f"xx-nn{code[-4:]}" for code in raw["code"]]
    assert seen["note"] == [None if note is None else first_4(note) for note in raw["note"]]
    assert seen["money"] == [None] * 400 and seen["numbers"] == [None] * 400
    assert seen["seen"] == [day.replace(day=1) for day in raw["seen"]]
    start = dict(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert seen["at"] == [at.replace(month=1, **start) for at in raw["at"]]
    assert seen["atz"] == [at.replace(**start) for at in raw["atz"]]
    assert all(0 <= score < 2**63 for score in seen["score"]) and max(seen["score"]) > 2**60
    assert len(set(zip(raw["score"], seen["score"]))) == len(set(raw["score"])) == len(set(seen["score"])), "one hash for one value"
    assert all(len(value) == 32 for value in seen["raw"]) and len(set(seen["raw"])) == 400
    mask_struct = lambda st: {"first": mask_alphanum(st["first"]), "tags": [mask_alphanum(tag) for tag in st["tags"]]}
    assert seen["st"] == [mask_struct(st) for st in raw["st"]]
    assert seen["list"] == [[first_4(x), None] for x, _ in raw["list"]]
    assert seen["region"] == [region if id % 2 == 0 else -1 for id, region in zip(raw["id"], raw["region"])]
    assert (one(rui, "SELECT st['first'] FROM h.people WHERE id = 7"), one(rui, "SELECT list[1] FROM h.people WHERE id = 7")) == ("xn", "xn")


def test_the_schema_is_one(rui, eva, masked):
    described = {name: (kind, nullable) for name, kind, nullable, _ in rows(rui, "DESCRIBE h.people")}
    listed = rows(rui, "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 'people'")
    assert {name: (kind, nullable) for name, kind, nullable in listed} == described
    streamed = table(rui, "SELECT * FROM h.people").schema
    assert {field.name: "YES" if field.nullable else "NO" for field in streamed} == {name: it[1] for name, it in described.items()}
    assert {name: it[0] for name, it in described.items()} == {name: kind for name, kind, _, _ in rows(eva, "DESCRIBE h.people")}


# Over the masked table and over a copy of what is seen of it. Every column that is named here is masked.
QUERIES = [
    "SELECT * FROM {t}",
    "SELECT count(*), count(name), count(money), count(note), count(DISTINCT name), count(DISTINCT code) FROM {t}",
    "SELECT min(name), max(name), min(score), max(score), min(seen), max(seen), min(at), max(at), min(money), max(region) FROM {t}",
    "SELECT sum(region), avg(region), sum(money) FROM {t}",
    "SELECT code, count(*), min(score) FROM {t} GROUP BY code",
    "SELECT seen, region, count(*) FROM {t} GROUP BY ROLLUP (seen, region)",
    "SELECT name, count(*) FROM {t} GROUP BY name HAVING count(*) > 1",
    "SELECT DISTINCT note FROM {t}",
    "SELECT DISTINCT st FROM {t}",
    "SELECT name, code, id FROM {t} ORDER BY code DESC, name, id LIMIT 7",
    "SELECT code FROM {t} ORDER BY code LIMIT 1",
    "SELECT id FROM {t} ORDER BY note NULLS FIRST, score, id LIMIT 9 OFFSET 2",
    "SELECT id, rank() OVER (PARTITION BY code ORDER BY score, id), lag(name) OVER (ORDER BY id), sum(region) OVER (ORDER BY id) FROM {t}",
    "SELECT id FROM {t} WHERE code = 'xx-nn0007'",
    "SELECT id FROM {t} WHERE code LIKE 'xx%7' AND region >= 0",
    "SELECT id FROM {t} WHERE name LIKE 'xxxx%' OR note IS NULL",
    "SELECT id FROM {t} WHERE note IS NOT NULL AND money IS NULL",
    "SELECT id FROM {t} WHERE region IN (-1, 3) AND seen BETWEEN DATE '2024-05-01' AND DATE '2024-08-02'",
    "SELECT id FROM {t} WHERE region = 3",
    "SELECT id FROM {t} WHERE at = TIMESTAMP '2024-01-01' AND atz < TIMESTAMP '2024-01-02'",
    "SELECT a.id, b.id FROM {t} a JOIN {t} b ON a.code = b.code AND a.id < b.id WHERE a.id < 60",
    "SELECT a.id, b.id FROM {t} a LEFT JOIN {t} b ON a.score = b.score AND b.id < 50 WHERE a.id < 50",
    "SELECT count(*) FROM {t} a JOIN h.guess g ON a.name = g.name",
    "SELECT count(*) FROM {t} a JOIN h.guess g ON a.score = g.score",
    "SELECT count(*) FROM h.guess g JOIN {t} a ON a.code = g.code",
    "SELECT count(*) FROM h.guess g WHERE EXISTS (SELECT 1 FROM {t} a WHERE a.note = g.note)",
    "SELECT count(*) FROM h.guess g WHERE g.name NOT IN (SELECT name FROM {t})",
    "SELECT id FROM {t} WHERE name IN (SELECT name FROM h.guess)",
    "SELECT code FROM {t} UNION SELECT code FROM h.guess",
    "SELECT code FROM {t} INTERSECT SELECT code FROM h.guess",
    "SELECT code FROM {t} EXCEPT SELECT code FROM h.guess",
    "SELECT name FROM {t} WHERE id < 20 UNION ALL SELECT name FROM {t} WHERE id < 9",
    "WITH q AS (SELECT * FROM {t} WHERE code > 'a') SELECT count(*), max(code) FROM q",
    "SELECT upper(code), substr(name, 5, 3), st['first'], list[1], array_length(st['tags']), extract(day FROM seen) FROM {t}",
    "SELECT CAST(substr(code, 5) AS INT) / (region + 1) FROM {t} WHERE region <> -1",
    "SELECT 1 / (region + 1) FROM {t}",
    "SELECT CAST(name AS INT) FROM {t}",
    "SELECT unnest(st['tags']) FROM {t} WHERE id < 5",
    "SELECT (SELECT max(code) FROM {t} b WHERE b.region = a.region) FROM {t} a WHERE a.id < 9",
    "SELECT approx_distinct(code), string_agg(code, ',' ORDER BY id), array_agg(DISTINCT region ORDER BY region) FROM {t}",
]


@pytest.mark.parametrize("query", QUERIES)
def test_masked_is_as_a_masked_copy(rui, masked, query):
    def answer(name):
        try:
            return table(rui, query.format(t=name))
        except adbc_driver_manager.Error as error:
            return error.status_code, re.sub(r"h\.\w+|'[^']*'", "…", str(error).split("\n")[0])

    governed, copied = answer("h.people"), answer("h.copy")
    if isinstance(copied, tuple):
        assert governed == copied
    else:
        assert_same_multiset(multiset(governed), multiset(copied))


def test_a_view_masks_for_who_reads_it(rui, eva, masked):
    assert_same_multiset(multiset(table(rui, "SELECT * FROM h.v")), multiset(table(rui, "SELECT * FROM h.copy_v")))
    assert one(rui, "SELECT count(*) FROM h.v WHERE name LIKE 'Ana%' OR code LIKE 'PT%'") == 0
    assert one(rui, "SELECT max(name) FROM h.v") == "xxxxnnnnnnnnn"
    assert one(eva, "SELECT count(*) FROM h.v WHERE name LIKE 'Ana%'") == 390


def test_raw_values_are_found_by_nothing(rui, eva, masked):
    name, code, score, note, seen = rows(eva, "SELECT name, code, score, note, seen FROM h.people WHERE id = 42")[0]
    for predicate in (
        f"name = '{name}'",
        f"name IN ('{name}', 'x')",
        "name LIKE 'Ana%'",
        "name ILIKE 'ana%'",
        "name ~ '[0-9]'",
        f"code = '{code}'",
        "starts_with(code, 'PT')",
        f"score = {score}",
        "score BETWEEN 0 AND 96",
        f"note = '{note}'",
        f"seen = DATE '{seen}'" if seen.day != 1 else "false",
        "money IS NOT NULL",
        "money >= 0",
        "region IN (1, 3, 5, 7, 9)",
        "numbers IS NOT NULL",
        "st['first'] LIKE 'F%'",
        "raw = arrow_cast('b42', 'Binary')",
    ):
        for name_of in ("h.people", "(SELECT * FROM h.people) q"):
            assert rows(rui, f"SELECT id FROM {name_of} WHERE {predicate}") == [], predicate
    candidates = "FROM h.people p JOIN h.guess g ON p.{0} = g.{0}"
    for column in ("name", "code", "score"):
        assert one(rui, f"SELECT count(*) {candidates.format(column)}") == 0, column
    assert one(eva, f"SELECT count(*) {candidates.format('name')}") == 400
    # Parameters, and a statement that was prepared.
    assert one(rui, "SELECT count(*) FROM h.people WHERE code = ?", [code]) == 0
    assert one(rui, "SELECT count(*) FROM h.people WHERE code = ?", ["xx-nn0042"]) == one(eva, "SELECT count(*) FROM h.people WHERE code = 'PT-100042'")


def test_plans_and_errors_tell_nothing(rui, masked):
    for statement in ("EXPLAIN", "EXPLAIN ANALYZE"):
        plan = "\n".join(str(cell) for row in rows(rui, f"{statement} SELECT id FROM h.people WHERE code = 'PT-100007' AND id < 5") for cell in row)
        assert "SecurityBarrierExec" in plan and not re.search(r"MaskExec|sha256|parquet|show_last|xx-", plan), plan
    error = failure(rui, "SELECT CAST(name AS INT) FROM h.people")
    assert "Ana" not in str(error)


def test_a_predicate_on_a_masked_column_reads_no_less(server, admin, rui, eva):
    """One file for each region: a predicate on what is shown spares files, one on what is masked spares none."""
    run(
        admin,
        "CREATE TABLE h.parted PARTITIONED BY (region) AS SELECT id, region, code FROM h.people",
        "CREATE MASKING POLICY m ON TABLE h.parted (region) TO USER rui USING (CAST(region % 2 AS INT))",
        "CREATE MASKING POLICY c ON TABLE h.parted (code) TO USER rui USING ACTION mask_alphanum",
    )

    def read(connection, predicate):
        """What is counted, and how many files were opened for it."""
        before = footers(server)
        return one(connection, f"SELECT count(id) FROM h.parted WHERE {predicate}"), footers(server) - before

    assert read(rui, "true") == (400, 10)
    assert read(eva, "region = 7") == (40, 1), "unmasked, the column prunes"
    for predicate, counted in (("region = 1", 200), ("region = 7", 0), ("region IS NULL", 0), ("code = 'PT-100001'", 0), ("region IN (0, 1)", 400)):
        assert read(rui, predicate) == (counted, 10), predicate
    # A dynamic filter of a join or a TopK is a predicate too.
    assert read(rui, "region IN (SELECT max(region) FROM h.people WHERE id = 6)")[1] >= 10
    assert read(rui, "id < 0")[1] < 10, "what is shown as it is prunes still"


def footers(server):
    looked_up = [figures(server, f"lazaret_cache_{what}_total", "cache")["footers"] for what in ("hits", "misses")]
    return sum(looked_up)


def test_a_query_hashes_with_a_key_of_its_own(server, admin, rui, eva):
    run(
        admin,
        "CREATE TABLE h.a AS SELECT id, name, score FROM h.people",
        "CREATE TABLE h.b AS SELECT id AS n, name AS label, score FROM h.people WHERE id % 4 = 0",
        "CREATE MASKING POLICY m ON TABLE h.a (name, score) TO USER rui USING ACTION sha256_query_local",
        "CREATE MASKING POLICY m ON TABLE h.b (label, score) TO USER rui USING ACTION sha256_query_local",
    )
    join = "SELECT count(*), count(DISTINCT a.name) FROM h.a JOIN h.b ON a.name = b.label AND a.score = b.score"
    assert rows(rui, join) == rows(eva, join), "joins within a query work"
    query = "SELECT name, score FROM h.a ORDER BY id"
    first, second = table(rui, query), table(rui, query)
    assert not set(first["name"].to_pylist()) & set(second["name"].to_pylist())
    assert not set(first["score"].to_pylist()) & set(second["score"].to_pylist())
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in first["name"].to_pylist())
    with rui.cursor() as cursor:
        cursor.adbc_prepare("SELECT name FROM h.a WHERE id = ?")
        seen = []
        for _ in range(2):
            cursor.execute("SELECT name FROM h.a WHERE id = ?", [1])
            seen.append(cursor.fetchone()[0])
    assert seen[0] != seen[1], "two executions of one prepared statement"


def test_a_global_hash_outlives_the_server(tmp_path):
    with support.serving(tmp_path / "one") as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE TABLE a AS SELECT 'v' AS t, 7 AS n, arrow_cast('v', 'Binary') AS b",
                "CREATE TABLE c AS SELECT 'v' AS other",
                "CREATE MASKING POLICY m ON TABLE a (t, n, b) TO ALL USING ACTION sha256_global",
                "CREATE MASKING POLICY m ON TABLE c (other) TO ALL USING ACTION sha256_global",
            )
            before = rows(admin, "SELECT * FROM a")
            assert one(admin, "SELECT count(*) FROM a JOIN c ON t = other") == 1
        server.stop()
        server.start()
        with server.connect() as admin:
            assert rows(admin, "SELECT * FROM a") == before
            shown = rows(admin, "SHOW MASKING POLICIES ON a")
            assert [(row[0], row[2], row[5]) for row in shown] == [("m", "t, n, b", "ACTION sha256_global")]
    with support.serving(tmp_path / "two") as server, server.connect() as admin:
        run(admin, "CREATE TABLE a AS SELECT 'v' AS t", "CREATE MASKING POLICY m ON TABLE a (t) TO ALL USING ACTION sha256_global")
        assert one(admin, "SELECT t FROM a") != before[0][0], "another server has another key"


def test_priorities_roles_and_exceptions(admin, rui, eva, server):
    run(
        admin,
        "CREATE TABLE h.p AS SELECT 'secret' AS a, 'secret' AS b",
        "CREATE MASKING POLICY low ON TABLE h.p (a, b) TO ALL EXCEPT ROLE doctors USING ('low')",
        "CREATE MASKING POLICY mid ON TABLE h.p (b) TO ROLE nurses USING ('mid') PRIORITY 1",
        "CREATE MASKING POLICY high ON TABLE h.p (b) TO USER rui USING ('high') PRIORITY 2",
    )
    query = "SELECT a, b FROM h.p"
    assert rows(rui, query) == [("low", "high")] and rows(eva, query) == rows(admin, query) == [("low", "low")], "nobody is exempt by rank"
    run(admin, "GRANT ROLE nurses TO USER eva")
    assert rows(eva, query) == [("low", "mid")]
    run(admin, "GRANT ROLE doctors TO USER eva")
    assert rows(eva, query) == [("secret", "mid")], "EXCEPT frees from that one policy"
    run(admin, "REVOKE ROLE nurses FROM USER eva")
    assert rows(eva, query) == [("secret", "secret")]
    run(admin, "REVOKE ROLE doctors FROM USER eva")
    taken = failure(admin, "CREATE MASKING POLICY again ON TABLE h.p (b) TO USER eva USING ('x') PRIORITY 2")
    assert taken.status_code == STATUS.ALREADY_EXISTS and 'column "b" already has a mask of priority 2' in str(taken)
    run(admin, "CREATE OR REPLACE MASKING POLICY high ON TABLE h.p (b) TO USER rui USING ('HIGH') PRIORITY 2 COMMENT 'why'")
    assert rows(rui, query) == [("low", "HIGH")]
    shown = rows(admin, "SHOW MASKING POLICIES ON h.p")
    assert [(r[0], r[2], r[3], r[4], r[5], r[6], r[8], r[9]) for r in shown] == [
        ("high", "b", "USER rui", None, "('HIGH')", 2, 2, "why"),
        ("low", "a, b", "ALL", "ROLE doctors", "('low')", 0, 1, None),
        ("mid", "b", "ROLE nurses", None, "('mid')", 1, 1, None),
    ]
    run(admin, "DROP MASKING POLICY high ON h.p", "DROP MASKING POLICY low ON TABLE h.p", "DROP MASKING POLICY IF EXISTS low ON h.p")
    assert rows(rui, query) == [("secret", "secret")]
    in_use = failure(admin, "DROP ROLE nurses")
    assert in_use.status_code == STATUS.INVALID_STATE or "polic" in str(in_use)


def test_row_policies_see_what_masks_hide(admin, rui):
    run(
        admin,
        "CREATE TABLE h.r AS SELECT id, code, region FROM h.people",
        "CREATE POLICY p ON TABLE h.r TO USER rui USING (code = 'PT-100007')",
        "CREATE MASKING POLICY m ON TABLE h.r (code) TO USER rui USING (concat('in ', CAST(region AS VARCHAR)))",
        "CREATE MASKING POLICY r ON TABLE h.r (region) TO USER rui USING ACTION replace_with_null",
    )
    assert rows(rui, "SELECT code, region, count(*) FROM h.r GROUP BY code, region") == [("in 7", None, 8)]
    assert one(rui, "SELECT count(*) FROM h.r WHERE code = 'PT-100007'") == 0
    assert one(rui, "SELECT count(*) FROM h.r WHERE code LIKE 'in %'") == 8


def test_row_policies_that_ask_other_tables_see_raw_values_too(admin, rui):
    run(
        admin,
        "CREATE TABLE h.asked AS SELECT id, code, region FROM h.people",
        "CREATE TABLE h.allowed AS SELECT 'PT-100007' AS code",
        "CREATE POLICY p ON TABLE h.asked TO USER rui USING (code IN (SELECT code FROM h.allowed))",
        "CREATE MASKING POLICY m ON TABLE h.asked (code) TO USER rui USING ACTION mask_alphanum",
        "CREATE MASKING POLICY r ON TABLE h.asked (region) TO USER rui USING (CASE WHEN code = 'PT-100007' THEN -7 ELSE region END)",
    )
    assert rows(rui, "SELECT code, region, count(*) FROM h.asked GROUP BY code, region") == [("xx-nnnnnn", -7, 8)]
    assert one(rui, "SELECT count(*) FROM h.asked WHERE code = 'PT-100007' OR region = 7") == 0
    assert one(rui, "SELECT count(*) FROM h.asked a JOIN h.allowed b ON a.code = b.code") == 0
    # What the policy asks is masked for its creator as well: nothing is like a masked code.
    run(admin, "CREATE MASKING POLICY m ON TABLE h.allowed (code) TO USER admin USING ACTION mask_alphanum")
    assert one(rui, "SELECT count(*) FROM h.asked") == 0


def test_masks_keep_nulls_and_types(admin, rui):
    run(
        admin,
        "CREATE TABLE h.n AS SELECT * FROM (VALUES (1, 'a', CAST(1.50 AS DECIMAL(12, 2)), CAST(1 AS SMALLINT)), (2, NULL, NULL, NULL)) v(id, t, d, s)",
        "CREATE MASKING POLICY t ON TABLE h.n (t) TO USER rui USING ('hidden')",
        "CREATE MASKING POLICY d ON TABLE h.n (d) TO USER rui USING (CASE WHEN id > 5 THEN d WHEN id > 4 THEN NULL ELSE 0.25 END)",
        "CREATE MASKING POLICY s ON TABLE h.n (s) TO USER rui USING (CASE WHEN now() > TIMESTAMPTZ '2000-01-01 00:00:00' THEN -7 ELSE 7 END)",
    )
    seen = table(rui, "SELECT * FROM h.n ORDER BY id")
    assert seen.to_pydict() == {"id": [1, 2], "t": ["hidden", None], "d": [decimal.Decimal("0.25"), None], "s": [-7, None]}
    assert (seen.schema.field("d").type, seen.schema.field("s").type) == (pa.decimal128(12, 2), pa.int16())
    assert one(rui, "SELECT count(*) FROM h.n WHERE t IS NULL") == 1


def test_a_mask_that_fails_says_nothing(admin, rui):
    run(
        admin,
        "CREATE TABLE h.f AS SELECT 'topsecret' AS t, 1 AS n",
        "CREATE MASKING POLICY m ON TABLE h.f (n) TO USER rui USING (CAST(t AS BIGINT))",
    )
    error = failure(rui, "SELECT n FROM h.f")
    assert re.search(r'reading "lazaret.h.f" failed \(id \w+\)', str(error)) and "topsecret" not in str(error)
    assert rows(rui, "SELECT t FROM h.f") == [("topsecret",)]


def test_what_cannot_be_a_mask_is_refused(admin, rui, dpo):
    run(admin, "CREATE TABLE h.w AS SELECT 1 AS n, CAST(1 AS INT) AS i, 'x' AS t, CAST('2024-01-01' AS DATE) AS d, named_struct('t', 'x', 'n', 1) AS st")
    create = "CREATE MASKING POLICY m ON TABLE h.w ({0}) TO ALL USING {1}"
    for column, using, said in (
        ("n", "('x')", r'column "n" is BIGINT, its mask VARCHAR at line 1'),
        ("i", "(n)", r'column "i" is INTEGER, its mask BIGINT'),
        ("i", "(3000000000)", r'column "i" is INTEGER, its mask BIGINT'),
        ("i", "(1.5)", r'column "i" is INTEGER, its mask DOUBLE'),
        ("t", "(1)", r'column "t" is VARCHAR, its mask BIGINT'),
        ("d", "('2024-01-01')", r'column "d" is DATE, its mask VARCHAR'),
        ("t", "(max(t))", "an aggregate function is not allowed"),
        ("t", "(first_value(t) OVER ())", "a window function is not allowed"),
        ("t", "((SELECT 'x'))", "not supported yet: subquery"),
        ("n", "(CAST(random() AS BIGINT))", 'function "random" is not allowed'),
        ("t", "(?)", "a parameter can stand in a query only"),
        ("t", "(missing)", "missing"),
        ("missing", "('x')", 'column "missing" not found at line 1, column 39'),
        ("t, t", "('x')", 'column "t" is named twice at line 1, column 42'),
        ("st.t", "('x')", 'a mask is for a whole column: name "st" alone at line 1, column 39'),
        ("n", "ACTION mask_alphanum", 'action mask_alphanum takes text, and column "n" is BIGINT at line 1, column 62'),
        ("i", "ACTION sha256_global", "action sha256_global takes text, binary and BIGINT"),
        ("t", "ACTION truncate_to_year", "takes DATE and TIMESTAMP"),
        ("st", "ACTION show_last_4", r'column "st" is STRUCT<'),
        ("t", "ACTION hide", "expected one of replace_with_null, mask_alphanum"),
        ("t", "('x') PRIORITY 1.5", "expected a whole number"),
        ("t", "('x') PRIORITY 99999999999999999999", "expected a whole number of 64 bits"),
        ("t", "('x') PRIORITY 1 2", "expected the end of the statement"),
    ):
        error = failure(admin, create.format(column, using))
        assert re.search(re.escape(said) if "(" in said else said, str(error)), f"{column} {using}: {error}"
    assert failure(admin, "CREATE MASKING POLICY m ON VIEW h.v (name) TO ALL USING ('x')").status_code == STATUS.INVALID_ARGUMENT
    assert failure(admin, "CREATE MASKING POLICY m ON TABLE h.v (name) TO ALL USING ('x')").status_code == STATUS.INVALID_ARGUMENT
    assert rows(admin, "SHOW MASKING POLICIES ON h.w") == []
    # Who may.
    denied = failure(rui, create.format("t", "('x')"))
    assert denied.status_code == STATUS.UNAUTHORIZED and "MANAGE POLICIES" in str(denied)
    assert rows(rui, "SHOW MASKING POLICIES") == []
    run(dpo, create.format("t", "('x')"))
    assert [row[7] for row in rows(dpo, "SHOW MASKING POLICIES ON h.w")] == ["dpo"]
    assert failure(rui, "DROP MASKING POLICY m ON h.w").status_code == STATUS.UNAUTHORIZED
    assert failure(dpo, create.format("t", "('y')")).status_code == STATUS.ALREADY_EXISTS
    assert "made policies" in str(failure(admin, "DROP USER dpo"))
    assert failure(dpo, "DROP MASKING POLICY none ON h.w").status_code == STATUS.NOT_FOUND


def test_a_column_that_is_not_granted_does_not_exist_masked_or_not(admin, server):
    run(
        admin,
        "CREATE TABLE h.g AS SELECT 1 AS id, 'shown' AS a, 'hidden' AS b",
        "CREATE MASKING POLICY m ON TABLE h.g (a) TO ALL USING (concat(a, b))",
        "CREATE MASKING POLICY k ON TABLE h.g (b) TO ALL USING ('x')",
        "GRANT SELECT (id, a) ON TABLE h.g TO USER bo",
    )
    with server.connect("bo", PASSWORD) as bo:
        assert table(bo, "SELECT * FROM h.g").to_pydict() == {"id": [1], "a": ["shownhidden"]}
        assert "not found" in str(failure(bo, "SELECT b FROM h.g"))


def test_a_plan_from_before_the_mask_does_not_run(admin, rui):
    run(admin, "CREATE TABLE h.late (t VARCHAR NOT NULL)", "INSERT INTO h.late VALUES ('raw')")
    with rui.cursor() as cursor:
        cursor.adbc_prepare("SELECT t FROM h.late")
        cursor.execute("SELECT t FROM h.late")
        assert cursor.fetchall() == [("raw",)]
        run(admin, "CREATE MASKING POLICY m ON TABLE h.late (t) TO USER rui USING ACTION mask_alphanum")
        cursor.execute("SELECT t FROM h.late")
        assert cursor.fetchall() == [("xxx",)]
    with rui.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT t FROM h.late")
        run(admin, "CREATE OR REPLACE MASKING POLICY m ON TABLE h.late (t) TO USER rui USING ACTION show_first_4")
        cursor.adbc_read_partition(partitions[0])
        assert cursor.fetchall() == [("rxx",)], "a ticket of before"
        partitions, schema = cursor.adbc_execute_partitions("SELECT t FROM h.late")
        run(admin, "CREATE OR REPLACE MASKING POLICY m ON TABLE h.late (t) TO USER rui USING ACTION replace_with_null")
        with pytest.raises(adbc_driver_manager.Error, match="plan it again"):
            cursor.adbc_read_partition(partitions[0])  # a column that was NOT NULL is not any more


def test_the_audit_names_the_masks(admin, rui):
    run(
        admin,
        "CREATE TABLE h.audited AS SELECT 'raw' AS a, 1 AS b",
        "CREATE MASKING POLICY old ON TABLE h.audited (a) TO USER rui USING ('x')",
        "CREATE OR REPLACE MASKING POLICY old ON TABLE h.audited (a) TO USER rui USING ('y')",
    )
    rows(rui, "SELECT a, b FROM h.audited")
    policies = one(admin, "SELECT policies FROM system.audit WHERE principal = 'rui' AND statement = 'SELECT a, b FROM h.audited'")
    (told,) = json.loads(policies)
    assert [(it["name"], it["version"], it["masks"]) for it in told["policies"]] == [("old", 2, ["a"])]


def test_a_table_goes_with_its_masks(admin, rui):
    run(
        admin,
        "CREATE TABLE h.gone AS SELECT 'raw' AS t",
        "CREATE MASKING POLICY m ON TABLE h.gone (t) TO ALL USING ('x')",
        "DROP TABLE h.gone",
        "CREATE TABLE h.gone AS SELECT 'raw' AS t",
    )
    assert rows(rui, "SELECT t FROM h.gone") == [("raw",)] and rows(admin, "SHOW MASKING POLICIES ON h.gone") == []
