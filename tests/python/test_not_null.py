"""What a table declares NOT NULL, and a policy may not rely on: files that hold NULLs all the same, and subqueries that
have no row."""

import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import support
from support import rows, run
from test_no_leak import PASSWORD


def field(name):
    return {"name": name, "type": "long", "nullable": False, "metadata": {}}


def delta(folder, files, partition_columns):
    """A Delta table of BIGINT NOT NULL columns `id` and `c`."""
    (folder / "_delta_log").mkdir(parents=True)
    schema = json.dumps({"type": "struct", "fields": [field("id"), field("c")]})
    metadata = {"id": folder.name, "format": {"provider": "parquet", "options": {}}, "schemaString": schema, "configuration": {}}
    actions = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"metaData": metadata | {"partitionColumns": partition_columns, "createdTime": 0}},
    ]
    for number, (columns, values) in enumerate(files):
        path = folder / f"{number}.parquet"
        parquet.write_table(pa.table(columns), path)
        add = {"path": path.name, "partitionValues": values, "size": path.stat().st_size, "modificationTime": 0, "dataChange": True}
        actions.append({"add": add})
    (folder / "_delta_log" / f"{0:020}.json").write_text("".join(json.dumps(action) + "\n" for action in actions))


@pytest.fixture(scope="module")
def admin(tmp_path_factory):
    """Of both tables, the rows 1 and 2 have a NULL in `c`; the one has it as a partition, and in files of the other `c` is missing."""
    folder = tmp_path_factory.mktemp("not_null")
    lake = folder / "lake"
    delta(lake / "partitioned", [({"id": [1, 2]}, {"c": None}), ({"id": [3, 4]}, {"c": "7"})], ["c"])
    delta(lake / "missing", [({"id": [1, 2]}, {}), ({"id": [3, 4], "c": [7, 8]}, {})], [])
    with support.serving(folder / "server", allowed_paths=[lake]) as server, server.connect() as admin:
        run(admin, "CREATE SCHEMA s")
        for name in ("partitioned", "missing"):
            run(admin, f"CREATE EXTERNAL TABLE s.{name} STORED AS DELTA LOCATION '{lake / name}'")
        run(admin, "CREATE TABLE s.mapping (who VARCHAR NOT NULL, area BIGINT NOT NULL)")
        run(admin, "INSERT INTO s.mapping VALUES ('ana', 3)")
        for user in ("ana", "rui"):
            run(admin, f"CREATE USER {user} PASSWORD '{PASSWORD}'")
            run(admin, f"GRANT SELECT ON SCHEMA s TO USER {user}")
        admin.server = server
        yield admin


def seen(admin, table, user, policy):
    run(admin, f"CREATE OR REPLACE POLICY p ON TABLE s.{table} TO ALL USING ({policy})")
    with admin.server.connect(user, PASSWORD) as reader:
        found = [id for (id,) in rows(reader, f"SELECT id FROM s.{table} ORDER BY id")]
        assert rows(reader, f"SELECT count(*) FROM s.{table}") == [(len(found),)]
        return found


@pytest.mark.parametrize("table", ["partitioned", "missing"])
@pytest.mark.parametrize("policy", ["c IS NOT NULL", "c IS NOT NULL AND EXISTS (SELECT 1 FROM s.mapping)"])
def test_a_null_is_seen_where_none_is_declared(admin, table, policy):
    assert seen(admin, table, "rui", policy) == [3, 4]


AREA = "(SELECT m.area FROM s.mapping m WHERE m.who = current_user)"


@pytest.mark.parametrize(
    "policy",
    [
        f"{AREA} IS NOT NULL",
        f"NOT ({AREA} IS NULL)",
        f"CASE WHEN {AREA} IS NULL THEN false ELSE true END",
        f"{AREA} = {AREA}",
        f"(id = {AREA}) IS NOT NULL",
        f"id <> {AREA} OR id = {AREA}",
    ],
)
def test_who_is_in_no_mapping_sees_nothing(admin, policy):
    assert seen(admin, "missing", "ana", policy) == [1, 2, 3, 4]
    assert seen(admin, "missing", "rui", policy) == []
