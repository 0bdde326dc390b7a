#!/usr/bin/env bash
# Installs the runner's Python environment and the peers that are named: setup.sh duckdb,datafusion,pyspark,chdb,roapi
# It has an environment of its own, so that no peer changes what the tests run with. A peer that does not install is said
# here, and skipped by name in the report.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazaret}
venv=$cache/parts/bench-venv
wanted=,${1:-duckdb,datafusion},

say() { printf 'bench: %s\n' "$*" >&2; }
# Wheels only, but for PySpark, which comes as source alone and has nothing to compile.
install() { "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-binary pyspark "$@"; }

# A stamp holds the hash of what it was made from.
needed=$(sed '/^# peers/,$d' "$here/requirements.txt")
stamp=$(sha256sum <<<"$needed" | cut -c1-16)
if [ ! -f "$venv/.made-from-$stamp" ]; then
  say "python environment"
  rm -rf "$venv"
  python3 -m venv "$venv"
  install -r /dev/stdin <<<"$needed"
  touch "$venv/.made-from-$stamp"
fi

for peer in $(sed '1,/^# peers/d; /^# tables/,$d' "$here/requirements.txt"); do
  [[ $wanted == *,${peer%%=*},* ]] || continue
  [ -f "$venv/.has-$peer" ] && continue
  say "$peer"
  if install "$peer"; then touch "$venv/.has-$peer"; else say "$peer does not install, and is skipped"; fi
done

# `tables` is no peer: it is what makes and changes tables for TPC-H and the soak.
makers=$(sed '1,/^# tables/d' "$here/requirements.txt")
stamp=$(sha256sum <<<"$makers" | cut -c1-16)
if [[ $wanted == *,tables,* ]] && [ ! -f "$venv/.has-tables-$stamp" ]; then
  say "what makes and changes tables"
  install -r /dev/stdin <<<"$makers"
  touch "$venv/.has-tables-$stamp"
fi
