"""Real input: an OMOP database as Delta and as Iceberg, and COVID-19 series as CSV, against DuckDB on the source files."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.memory import InMemoryCatalog

import support
from support import assert_same_multiset, assert_same_rows, literal, multiset, one, quoted, run, table

FORMATS = ["delta", "iceberg"]


def omop_tables():
    found = sorted((support.SHARED / "data" / "omop").glob("*.parquet"))
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=support.NO_SHARED))]
    return [pytest.param(path, id=path.stem) for path in found]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def server(lake, shared, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), allowed_paths=[lake, shared / "omop", shared / "covid"]) as server:
        yield server


@pytest.fixture(scope="module")
def omop(server, lake, shared):
    """Connections by format; their schema holds all tables."""
    files = sorted((shared / "omop").glob("*.parquet"))
    catalog = InMemoryCatalog("memory", warehouse=lake.as_uri())
    catalog.create_namespace("omop")
    with server.connect() as admin:
        run(admin, "CREATE SCHEMA source", "CREATE SCHEMA delta", "CREATE SCHEMA iceberg")
        for path in files:
            name = quoted(path.stem)
            location = write_iceberg(catalog, f"omop.{path.stem}", pq.read_table(path))
            run(
                admin,
                f"CREATE EXTERNAL TABLE source.{name} STORED AS PARQUET LOCATION {literal(path)}",
                f"CREATE TABLE delta.{name} AS SELECT * FROM source.{name}",
                f"CREATE EXTERNAL TABLE iceberg.{name} STORED AS ICEBERG LOCATION {literal(location)}",
            )
    connections = {name: server.connect(options={"adbc.connection.db_schema": name}) for name in FORMATS}
    yield connections
    for connection in connections.values():
        connection.close()


def write_iceberg(catalog, name, data):
    """In two appends; the location of its metadata file."""
    written = catalog.create_table(name, data.schema)
    half = data.num_rows // 2
    written.append(data.slice(0, half))
    written.append(data.slice(half))
    return written.metadata_location


@pytest.fixture(scope="module")
def oracle(shared):
    """DuckDB with a view on each source file."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for path in sorted((shared / "omop").glob("*.parquet")):
            connection.execute(f"CREATE VIEW {quoted(path.stem)} AS FROM read_parquet({literal(path)})")
        for path in sorted((shared / "covid").glob("*.csv")):
            connection.execute(f"CREATE VIEW {quoted(path.stem)} AS FROM read_csv({literal(path)})")
        yield connection


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("path", omop_tables())
def test_omop_table(path, form, omop):
    expected = pq.read_table(path)
    assert one(omop[form], f"SELECT count(*) FROM {quoted(path.stem)}") == expected.num_rows
    got = table(omop[form], f"SELECT * FROM {quoted(path.stem)}")
    # The large ones by columns: rows are compared in test_omop_query.
    if expected.num_rows <= 20_000:
        assert_same_rows(got, expected)
    else:
        order = [(name, "ascending") for name in expected.column_names]
        assert got.sort_by(order).cast(expected.schema).equals(expected.sort_by(order))


# Written so that both engines understand them alike; every result is exact, and totally ordered where it is ordered.
OMOP_QUERIES = {
    "condition by concept": """
        SELECT c.concept_name, count(*) AS n, count(DISTINCT co.person_id) AS persons
        FROM condition_occurrence co
        JOIN person p ON p.person_id = co.person_id
        JOIN concept c ON c.concept_id = co.condition_concept_id
        GROUP BY c.concept_name ORDER BY n DESC, c.concept_name LIMIT 20""",
    "all three, row by row": """
        SELECT p.person_id, p.year_of_birth, co.condition_start_date, co.condition_start_datetime, c.concept_name, c.concept_code
        FROM condition_occurrence co
        LEFT JOIN person p ON p.person_id = co.person_id
        LEFT JOIN concept c ON c.concept_id = co.condition_concept_id""",
    "cohort: first diagnosis with a visit in the month before and none of the same in the year before": """
        WITH first_one AS (
          SELECT person_id, condition_concept_id, min(condition_start_date) AS index_date
          FROM condition_occurrence GROUP BY person_id, condition_concept_id
        ), cohort AS (
          SELECT f.person_id, f.condition_concept_id, f.index_date
          FROM first_one f
          JOIN observation_period op ON op.person_id = f.person_id
            AND f.index_date BETWEEN op.observation_period_start_date AND op.observation_period_end_date
          WHERE EXISTS (SELECT 1 FROM visit_occurrence v WHERE v.person_id = f.person_id
                          AND v.visit_start_date BETWEEN f.index_date - INTERVAL '30' DAY AND f.index_date)
            AND NOT EXISTS (SELECT 1 FROM condition_occurrence o WHERE o.person_id = f.person_id
                          AND o.condition_concept_id = f.condition_concept_id
                          AND o.condition_start_date < f.index_date AND o.condition_start_date >= f.index_date - INTERVAL '365' DAY)
        )
        SELECT condition_concept_id, count(*) AS persons, min(index_date) AS first_seen, max(index_date) AS last_seen
        FROM cohort GROUP BY condition_concept_id""",
    "age pyramid": """
        SELECT CASE gender_concept_id WHEN 8507 THEN 'M' WHEN 8532 THEN 'F' ELSE '?' END AS sex,
               CAST(floor((2020 - year_of_birth) / 10.0) * 10 AS INTEGER) AS age_from, count(*) AS persons
        FROM person GROUP BY 1, 2""",
    "weekly visits with a moving average of four weeks": """
        WITH weeks AS (
          SELECT date_trunc('week', CAST(visit_start_date AS TIMESTAMP)) AS week, count(*) AS visits
          FROM visit_occurrence GROUP BY 1)
        SELECT week, visits, avg(visits) OVER (ORDER BY week ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS average
        FROM weeks""",
    "measurements": """
        SELECT measurement_concept_id, count(*) AS n, min(value_as_number) AS low, max(value_as_number) AS high,
               sum(value_as_number) AS total, count(value_as_number) AS valued
        FROM measurement GROUP BY measurement_concept_id""",
    "never seen": """
        SELECT concept_id FROM concept WHERE vocabulary_id = 'SNOMED'
        EXCEPT SELECT condition_concept_id FROM condition_occurrence""",
    "relationships": """
        SELECT relationship_id, count(*) AS n, min(concept_id_1) AS low, max(concept_id_2) AS high
        FROM concept_relationship WHERE invalid_reason IS NULL OR invalid_reason <> 'D' GROUP BY relationship_id""",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", OMOP_QUERIES)
def test_omop_query(name, form, omop, oracle):
    same_as_duckdb(omop[form], oracle, OMOP_QUERIES[name])


def same_as_duckdb(connection, oracle, sql):
    got, expected = table(connection, sql), oracle.sql(sql).to_arrow_table()
    assert got.column_names == expected.column_names
    assert got.num_rows > 0
    assert_same_multiset(multiset(widened(got)), multiset(widened(expected)))


def widened(result):
    """Engines differ in the width of counts and sums, and in the unit of timestamps; values are what counts."""

    def wide(kind):
        if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
            return pa.int64()
        if pa.types.is_decimal(kind):
            return pa.decimal128(38, kind.scale)
        return pa.timestamp("us") if pa.types.is_timestamp(kind) else kind

    return result.cast(pa.schema([field.with_type(wide(field.type)) for field in result.schema]))


# --- COVID-19 ---


@pytest.fixture(scope="module")
def covid(server, shared, admin):
    for path in sorted((shared / "covid").glob("*.csv")):
        run(
            admin,
            f"CREATE EXTERNAL TABLE {quoted(path.stem)} STORED AS CSV LOCATION {literal(path)} OPTIONS ('format.has_header' 'true')",
        )
    return admin


COVID_QUERIES = {
    "worldwide": 'SELECT * FROM "worldwide-aggregate"',
    "countries": 'SELECT * FROM "key-countries-pivoted"',
    "counts": 'SELECT count(*) AS n, min("Date") AS first_day, max("Date") AS last_day, max("Confirmed") AS most FROM "worldwide-aggregate"',
    "population": """
        SELECT "Country_Region" AS country, count(*) AS n, sum("Population") AS people, max("Combined_Key") AS last_key
        FROM reference GROUP BY "Country_Region" """,
    "weekly series with a 7-day moving average": """
        WITH days AS (
          SELECT CAST("Date" AS DATE) AS day, "US" - lag("US") OVER (ORDER BY "Date") AS cases FROM "key-countries-pivoted"
        ), smooth AS (
          SELECT day, cases, avg(cases) OVER (ORDER BY day ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS average FROM days)
        SELECT date_trunc('week', CAST(day AS TIMESTAMP)) AS week, sum(cases) AS cases, max(average) AS peak, count(*) AS days
        FROM smooth GROUP BY 1""",
}


@pytest.mark.parametrize("name", COVID_QUERIES)
def test_covid(name, covid, oracle):
    same_as_duckdb(covid, oracle, COVID_QUERIES[name])
