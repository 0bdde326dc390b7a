#!/usr/bin/env bash
# Installs what the tests run beside the server: Debian packages when root, a Python environment, an S3 server, an
# OIDC provider, the JDBC drivers. Everything lands in the user's cache folder, keyed by version; a second run is quick.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazaret}
parts=$cache/parts
mkdir -p "$parts"

have() { command -v "$1" >/dev/null 2>&1; }
say() { printf 'setup: %s\n' "$*" >&2; }

debian_packages() {
  local missing=()
  have cc || missing+=(build-essential)
  have cmake || missing+=(cmake)
  have zstd || missing+=(zstd)
  have curl || missing+=(curl)
  have python3 || missing+=(python3)
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" = 0 ] && have apt-get; then
    say "installing ${missing[*]}"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    say "please install: ${missing[*]}"
    exit 1
  fi
}

# The toolchains of the drivers and servers that the tests run: too large to install in passing.
toolchains() {
  local missing=()
  for tool in go node npm java mvn; do
    have "$tool" || missing+=("$tool")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "please install: ${missing[*]} (Go, Node.js with npm, a JDK of 17 or newer, Maven)"
  exit 1
}

# A stamp holds the hash of what it was made from.
python_environment() {
  local venv=$parts/venv stamp
  stamp=$(sha256sum "$here/requirements.txt" | cut -c1-16)
  [ -f "$venv/.made-from-$stamp" ] && return
  say "python environment"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --only-binary :all: -r "$here/requirements.txt"
  touch "$venv/.made-from-$stamp"
}

s3_server() {
  local version=v1.8.0 out
  out=$parts/versitygw-$version
  [ -x "$out/versitygw" ] && return
  say "S3 server (versitygw $version)"
  mkdir -p "$out"
  GOBIN=$out GOFLAGS=-modcacherw go install "github.com/versity/versitygw/cmd/versitygw@$version"
}

oidc_provider() {
  local out=$parts/oidc stamp
  stamp=$(sha256sum "$here/oidc/package.json" | cut -c1-16)
  [ -f "$out/.made-from-$stamp" ] && return
  say "OIDC provider"
  rm -rf "$out" && mkdir -p "$out"
  cp "$here/oidc/package.json" "$here/oidc/server.js" "$out/"
  (cd "$out" && npm install --silent --no-audit --no-fund >/dev/null)
  touch "$out/.made-from-$stamp"
}

jdbc_drivers() {
  local out=$parts/jdbc version
  mkdir -p "$out"
  while read -r version; do
    [ -f "$out/flight-sql-jdbc-driver-$version.jar" ] && continue
    say "JDBC driver $version"
    mvn -q -B dependency:copy -Dartifact="org.apache.arrow:flight-sql-jdbc-driver:$version" -DoutputDirectory="$out"
  done < "$here/jdbc-versions.txt"
}

cargo_tools() {
  have cargo-deny || [ -x "$parts/cargo/bin/cargo-deny" ] && return
  say "cargo-deny"
  CARGO_TARGET_DIR=$parts/cargo/target cargo install --quiet --locked --root "$parts/cargo" cargo-deny@0.20.2
  rm -rf "$parts/cargo/target"
}

debian_packages
toolchains
for part in "${@:-python_environment s3_server oidc_provider jdbc_drivers cargo_tools}"; do
  for one in $part; do "$one"; done
done
say "done"
