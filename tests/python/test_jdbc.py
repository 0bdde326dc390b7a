"""The Flight SQL JDBC drivers: the checks of tests/jdbc/JdbcCheck.java, in one JVM for each version."""

import json
import re
import subprocess

import pytest

import support

SOURCE = support.ROOT / "tests" / "jdbc" / "JdbcCheck.java"
VERSIONS = (support.ROOT / "tests" / "parts" / "jdbc-versions.txt").read_text().split()
CHECKS = re.findall(r'check\("([^"]+)"', SOURCE.read_text())
# What the server does not do yet.
OPEN = {}
# A JVM on a loaded machine of two cores; the driver can hang for ever after an error.
COMPILE_S, RUN_S = 100, 200
TEST_S = COMPILE_S + RUN_S


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    subprocess.run(["javac", "-encoding", "UTF-8", "-d", folder, SOURCE], check=True, timeout=COMPILE_S)
    return folder


@pytest.fixture(scope="module", params=VERSIONS)
def outcomes(request, classes, oidc, tmp_path_factory):
    """What came of each check, by name."""
    jar = support.PARTS / "jdbc" / f"flight-sql-jdbc-driver-{request.param}.jar"
    with support.serving(tmp_path_factory.mktemp("server"), config=oidc.section) as server:
        java = ["java", "-Xmx512m", "-Dfile.encoding=UTF-8", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", f"{classes}:{jar}"]
        command = [*java, "JdbcCheck", server.address, support.ADMIN_PASSWORD, oidc.token("ana")]
        errors = tmp_path_factory.mktemp("jdbc") / "stderr"
        with open(errors, "wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            try:
                out, _ = process.communicate(timeout=RUN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
        lines = [json.loads(line) for line in out.decode().splitlines() if line.startswith('{"check"')]
        yield {line["check"]: line["error"] for line in lines} | {"": errors.read_text(errors="replace")[-2000:]}


def marked(check):
    marks = [pytest.mark.xfail(strict=True, reason=OPEN[check])] if check in OPEN else []
    return pytest.param(check, marks=marks)


@pytest.mark.parametrize("check", [marked(check) for check in CHECKS])
def test_jdbc(check, outcomes):
    assert check in outcomes, f"it did not get there\n{outcomes['']}"
    assert outcomes[check] is None
