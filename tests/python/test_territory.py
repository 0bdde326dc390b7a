"""A table whose metadata name the files of another table shows nothing of them, whichever was registered first."""

import json

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

import support
from support import failure, one, run

PASSWORD = "a long password"


def delta_on_files_of(victim, folder):
    """A Delta table in `folder` whose log names the data files of `victim` by absolute paths."""
    (folder / "_delta_log").mkdir(parents=True)
    for log in sorted((victim / "_delta_log").glob("*.json")):
        lines = []
        for line in log.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                action["add"]["path"] = (victim / action["add"]["path"]).as_uri()
            lines.append(json.dumps(action))
        (folder / "_delta_log" / log.name).write_text("\n".join(lines) + "\n")


def iceberg_on_files_of(victim, folder, schema):
    catalog = SqlCatalog("c", uri=f"sqlite:///{folder.parent}/catalog-{folder.name}.db", warehouse=folder.parent.as_uri())
    catalog.create_namespace_if_not_exists("n")
    table = catalog.create_table(f"n.{folder.name}", schema=schema, location=folder.as_uri())
    table.add_files([str(path) for path in victim.glob("*.parquet")])


@pytest.fixture
def lake(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture
def server(lake, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), allowed_paths=[lake]) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA own",
                f"CREATE USER rui PASSWORD '{PASSWORD}'",
                "GRANT READ FILES ON SYSTEM TO USER rui",
                "GRANT CREATE ON SCHEMA own TO USER rui",
            )
        yield server


ROWS = pa.table({"id": pa.array(range(100), pa.int64()), "region": pa.array([value % 4 for value in range(100)], pa.int64())})


def governed(victim):
    return [
        f"CREATE EXTERNAL TABLE victim STORED AS DELTA LOCATION '{victim}'",
        "GRANT SELECT ON TABLE victim TO USER rui",
        "CREATE POLICY p ON TABLE victim TO USER rui USING (region = 1)",
    ]


@pytest.mark.parametrize("form", ["DELTA", "ICEBERG"])
def test_files_of_another_table_are_not_registered(server, lake, form):
    victim, thief = lake / "victim", lake / "thief"
    write_deltalake(victim, ROWS)
    if form == "DELTA":
        delta_on_files_of(victim, thief)
    else:
        iceberg_on_files_of(victim, thief, ROWS.schema)
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(admin, *governed(victim))
        error = str(failure(rui, f"CREATE EXTERNAL TABLE own.thief STORED AS {form} LOCATION '{thief}'"))
        assert "belong to another table" in error and "victim" not in error.replace(str(thief), "")
        assert one(rui, "SELECT count(*) FROM victim") == 25


@pytest.mark.parametrize("form", ["DELTA", "ICEBERG"])
def test_a_folder_that_a_table_elsewhere_reads_belongs_to_it(server, lake, form):
    """Registered by itself, it would show the rows without the policy."""
    files, table = lake / "files", lake / "table"
    write_deltalake(files, ROWS)
    if form == "DELTA":
        delta_on_files_of(files, table)
    else:
        iceberg_on_files_of(files, table, ROWS.schema)
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(
            admin,
            f"CREATE EXTERNAL TABLE victim STORED AS {form} LOCATION '{table}'",
            "GRANT SELECT ON TABLE victim TO USER rui",
            "CREATE POLICY p ON TABLE victim TO USER rui USING (region = 1)",
        )
        for location, kind in [(files, "DELTA"), (files, "PARQUET"), (next(files.glob("*.parquet")), "PARQUET")]:
            error = str(failure(rui, f"CREATE EXTERNAL TABLE own.thief STORED AS {kind} LOCATION '{location}'"))
            assert "this location cannot be used" in error and "victim" not in error
        assert one(rui, "SELECT count(*) FROM victim") == 25
        run(admin, "DROP TABLE victim")
        run(rui, f"CREATE EXTERNAL TABLE own.mine STORED AS DELTA LOCATION '{files}'")


def test_a_table_that_comes_to_name_the_files_of_another_closes(server, lake):
    victim, thief = lake / "victim", lake / "thief"
    write_deltalake(victim, ROWS)
    write_deltalake(thief, ROWS.slice(0, 7))
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(admin, *governed(victim))
        run(rui, f"CREATE EXTERNAL TABLE own.thief STORED AS DELTA LOCATION '{thief}'")
        assert one(rui, "SELECT count(*) FROM own.thief") == 7
        lines = (victim / "_delta_log" / f"{0:020}.json").read_text().splitlines()
        add = next(json.loads(line) for line in lines if "add" in json.loads(line))
        add["add"]["path"] = (victim / add["add"]["path"]).as_uri()
        (thief / "_delta_log" / f"{1:020}.json").write_text(json.dumps(add) + "\n")
        error = None
        while error is None:
            try:
                assert one(rui, "SELECT count(*) FROM own.thief") == 7, "until the new version is seen"
            except Exception as raised:
                assert not isinstance(raised, AssertionError)
                error = str(raised)
        assert "own.thief" in error and "victim" not in error


def test_symbolic_links_lead_nowhere(server, lake):
    """Not from a folder of plain files, nor from a table of a format, to files elsewhere."""
    victim = lake / "victim"
    write_deltalake(victim, ROWS)
    folder, table = lake / "folder", lake / "table"
    folder.mkdir()
    (folder / "link").symlink_to(victim)
    write_deltalake(table, ROWS.slice(0, 7))
    own = next(table.glob("*.parquet"))
    own.unlink()
    own.symlink_to(next(victim.glob("*.parquet")))
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(admin, *governed(victim))
        failure(rui, f"CREATE EXTERNAL TABLE own.a STORED AS PARQUET LOCATION '{folder}'")
        run(rui, f"CREATE EXTERNAL TABLE own.b STORED AS DELTA LOCATION '{table}'")
        assert "the table's storage cannot be read" in str(failure(rui, "SELECT id FROM own.b"))
        assert one(rui, "SELECT count(*) FROM victim") == 25


def test_a_governed_external_table_is_dropped_by_those_who_manage_its_policies(server, lake):
    """Its files stay, and whoever registered them again would see all of them."""
    victim = lake / "victim"
    write_deltalake(victim, ROWS)
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(
            rui,
            f"CREATE EXTERNAL TABLE own.t STORED AS DELTA LOCATION '{victim}'",
            "DROP TABLE own.t",
            f"CREATE EXTERNAL TABLE own.t STORED AS DELTA LOCATION '{victim}'",
        )
        run(admin, "CREATE POLICY p ON TABLE own.t TO USER rui USING (region = 1)")
        assert "MANAGE POLICIES" in str(failure(rui, "DROP TABLE own.t"))
        run(admin, "DROP POLICY p ON TABLE own.t")
        assert "MANAGE POLICIES" in str(failure(rui, "DROP TABLE own.t")), "row-level security is still on"
        run(admin, "ALTER TABLE own.t DISABLE ROW LEVEL SECURITY", "CREATE POLICY p ON SCHEMA own TO USER rui USING (region = 1)")
        assert "MANAGE POLICIES" in str(failure(rui, "DROP TABLE own.t"))
        run(admin, "DROP POLICY p ON SCHEMA own")
        run(admin, "DROP TABLE own.t")
