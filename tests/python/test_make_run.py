"""`make run`, in the README's own words: what it prints is pasted, and answers."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import adbc_driver_flightsql.dbapi
import pytest
from support import ROOT, binary


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What `make run` says until it serves, on a free port and with a folder of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LAZARET_", "MAKE"))}
    environment = {**inherited, "LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0", "CARGO_TARGET_DIR": str(Path(binary()).parent.parent)}
    environment["CACHE"] = str(tmp_path_factory.mktemp("make-run"))
    make = subprocess.Popen(["make", "run"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    lines = []
    for line in make.stdout:
        lines.append(line)
        if "Try:" in line:
            break
    yield "".join(lines)
    os.killpg(make.pid, signal.SIGINT)
    make.wait(60)


def rows(line, query):
    connection = eval(line, {"adbc_driver_flightsql": adbc_driver_flightsql})  # the line as a user pastes it
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def line_of(printed, user, kind):
    block = printed[re.search(rf"^  {user}\b.*$", printed, re.M).end() :]
    return re.search(rf"^    {kind} +(.*)$", block, re.M).group(1)


def test_the_lines_for_python(printed):
    query = "SELECT count(*), min(region_id), max(region_id) FROM events"
    everything = rows(line_of(printed, "admin", "Python"), query)[0]
    one_state = rows(line_of(printed, "rui", "Python"), query)[0]
    assert everything[0] > one_state[0] > 0
    assert everything[1] < 64 and everything[2] > 127
    assert 64 <= one_state[1] and one_state[2] <= 127


@pytest.mark.parametrize("user", ["admin", "rui"])
def test_the_line_for_the_shell(printed, user):
    command = f"{line_of(printed, user, 'shell')} -c {shlex.quote('SELECT current_user')}"
    shell = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert shell.returncode == 0, shell.stderr
    assert user in shell.stdout


def test_the_statement_to_try(printed):
    query = re.search(r"Try: (.*);", printed).group(1)
    assert len(rows(line_of(printed, "admin", "Python"), query)) == 6
