"""TPC-H's tables: Parquet files by tpchgen-cli, and a Delta and an Iceberg table over them by these formats' Python packages.

`<tables>/delta/<table>` and `<tables>/iceberg/<table>` hold the same data files (hard links), since a location belongs to one table.
"""

import math
import os
import pathlib
import shutil
import subprocess
import sys

import deltalake
import pyarrow.parquet as pq
from pyiceberg.catalog.memory import InMemoryCatalog

# At scale factor 1, about; `nation` and `region` are the same at every one.
ROWS = {
    "lineitem": 6_000_000, "orders": 1_500_000, "partsupp": 800_000, "part": 200_000, "customer": 150_000, "supplier": 10_000,
    "nation": 0, "region": 0,
}  # fmt: skip
# As large as EpiBench's; a row group of `lineitem` has 300,000 rows then.
FILE_ROWS = 4 * 1024 * 1024
LAYOUT = ["--compression", "ZSTD(3)", "--row-group-bytes", "20MB"]


def generate(tables, scale_factor):
    shutil.rmtree(tables, ignore_errors=True)  # what an attempt that failed has left
    tpchgen = pathlib.Path(sys.executable).with_name("tpchgen-cli")
    catalog = InMemoryCatalog("tpch")
    catalog.create_namespace("tpch")
    for table, rows in ROWS.items():
        parts = max(1, math.ceil(rows * scale_factor / FILE_ROWS))
        command = [tpchgen, "parquet", "--quiet", "--scale-factor", f"{scale_factor:g}", "--tables", table, "--parts", str(parts)]
        subprocess.run([*command, *LAYOUT, "--output-dir", tables / "delta"], check=True)
        folder, twin = tables / "delta" / table, tables / "iceberg" / table
        files = sorted(folder.glob("*.parquet"))
        deltalake.convert_to_deltalake(folder)
        (twin / "data").mkdir(parents=True)
        for file in files:
            os.link(file, twin / "data" / file.name)
        iceberg = catalog.create_table(f"tpch.{table}", pq.read_schema(files[0]), location=twin.as_uri())
        iceberg.add_files([(twin / "data" / file.name).as_uri() for file in files])
