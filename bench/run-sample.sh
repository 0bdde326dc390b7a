#!/usr/bin/env bash
# make run: serves EpiBench's tables at a small scale, with three users, and says how to connect.
# $1 the server's binary, $2 the generator's.
set -euo pipefail
server=$1 generator=$2
home=${BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazaret}/sample
listen=${LISTEN:-127.0.0.1:32010}
tables=$home/tables
mkdir -p "$home"

# Iceberg's metadata holds absolute paths, so the tables are made where they stay; the stamp says that they are whole.
if [ ! -f "$tables/.complete" ]; then
  rm -rf "$tables"
  "$generator" generate --out "$tables" --scale "${SAMPLE_SCALE:-100k}" >&2
  touch "$tables/.complete"
fi

ready=$home/ready.json
: > "$ready"
LAZARET_ADMIN_PASSWORD=admin-sample LAZARET_ALLOWED_PATHS=$tables LAZARET_LISTEN=$listen \
  LAZARET_ADMIN_LISTEN=${ADMIN_LISTEN:-127.0.0.1:32011} "$server" serve --data-dir "$home/data" > "$ready" &
pid=$!
trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; exit' INT TERM EXIT
until [ -s "$ready" ]; do
  kill -0 "$pid" 2>/dev/null || { echo "the server did not start" >&2; exit 1; }
  sleep 0.05
done
listen=$(grep -o '"listen":"[^"]*"' "$ready" | cut -d'"' -f4)
port=${listen##*:}

{
  echo "CREATE SCHEMA IF NOT EXISTS iceberg;"
  for table in events person region facility serial_interval; do
    echo "CREATE EXTERNAL TABLE IF NOT EXISTS $table STORED AS DELTA LOCATION '$tables/delta/$table';"
    echo "CREATE EXTERNAL TABLE IF NOT EXISTS iceberg.$table STORED AS ICEBERG LOCATION '$tables/iceberg/$table';"
  done
  cat <<'SQL'
CREATE USER IF NOT EXISTS ana PASSWORD 'ana-sample';
CREATE USER IF NOT EXISTS rui PASSWORD 'rui-sample';
CREATE ROLE IF NOT EXISTS epidemiologist;
GRANT ROLE epidemiologist TO USER ana;
GRANT ROLE epidemiologist TO USER rui;
GRANT SELECT ON SCHEMA public TO ROLE epidemiologist;
GRANT SELECT ON SCHEMA iceberg TO ROLE epidemiologist;
CREATE OR REPLACE POLICY national ON TABLE events FOR SELECT TO USER ana, USER admin USING (true);
CREATE OR REPLACE POLICY own_state ON TABLE events FOR SELECT TO USER rui USING (region_id BETWEEN 64 AND 127);
CREATE OR REPLACE POLICY national ON TABLE iceberg.events FOR SELECT TO USER ana, USER admin USING (true);
CREATE OR REPLACE POLICY own_state ON TABLE iceberg.events FOR SELECT TO USER rui USING (region_id BETWEEN 64 AND 127);
SQL
} | LAZARET_PASSWORD=admin-sample "$server" sql --url "grpc://127.0.0.1:$port" > "$home/setup.log"

cat <<TEXT

Lazaret serves on $listen.   admin sees everything, ana all of the country, rui one state.   Ctrl-C stops it.

  admin
    JDBC    jdbc:arrow-flight-sql://127.0.0.1:$port/?useEncryption=false&user=admin&password=admin-sample
    Python  adbc_driver_flightsql.dbapi.connect("grpc://127.0.0.1:$port", db_kwargs={"username": "admin", "password": "admin-sample"}, autocommit=True)
    shell   LAZARET_PASSWORD=admin-sample "$server" sql --url grpc://127.0.0.1:$port
  rui (restricted)
    JDBC    jdbc:arrow-flight-sql://127.0.0.1:$port/?useEncryption=false&user=rui&password=rui-sample
    Python  adbc_driver_flightsql.dbapi.connect("grpc://127.0.0.1:$port", db_kwargs={"username": "rui", "password": "rui-sample"}, autocommit=True)
    shell   LAZARET_PASSWORD=rui-sample "$server" sql --url grpc://127.0.0.1:$port --user rui
  ana has the password ana-sample.   Try: SELECT event_type, count(*) FROM events GROUP BY event_type;
TEXT
wait "$pid"
