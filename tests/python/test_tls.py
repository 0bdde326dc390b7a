"""[tls]: whoever trusts the server's authority is served, with every client; whoever does not, or speaks in the clear, gets
nothing. Without it the server is heard on its own machine only, unless it is told otherwise."""

import contextlib
import json
import os
import socket
import subprocess
import urllib.parse

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pytest

import support
from support import one, run, table
from test_identity import CLIENT, Authority, needs_openssl

pytestmark = needs_openssl
STATUS = adbc_driver_manager.AdbcStatusCode
OPTIONS = adbc_driver_flightsql.DatabaseOptions
# A JVM and the compiler on a loaded machine of two cores.
JAVA_S = 100
TEST_S = 2 * JAVA_S
STORE_PASSWORD = "changeit"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Its server is known by one name only, and that is no address."""
    ours = Authority(tmp_path_factory.mktemp("tls") / "ours", "Hospital CA")
    ours.sign("server", "/CN=server", "subjectAltName=DNS:localhost")
    return ours


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Of the same name, with another key."""
    return Authority(tmp_path_factory.mktemp("tls") / "others", "Hospital CA")


def section(authority, **files):
    files = {"cert_file": "server.pem", "key_file": "server.key"} | files
    return "[tls]\n" + "".join(f"{key} = {json.dumps(authority.path(name))}\n" for key, name in files.items())


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), config=section(authority)) as server:
        yield server


@pytest.fixture(scope="module")
def strict_server(authority, tmp_path_factory):
    """Which asks its clients for a certificate."""
    with support.serving(tmp_path_factory.mktemp("strict"), config=section(authority, client_ca_file="ca.pem")) as server:
        yield server


def port(server):
    return server.address.rsplit(":", 1)[1]


def connect(server, ca=None, host="localhost", scheme="grpc+tls", certificate=None, **credentials):
    """Over ADBC; without an authority, with those of the system."""
    kwargs = credentials or {"username": "admin", "password": support.ADMIN_PASSWORD}
    if ca is not None:
        kwargs[OPTIONS.TLS_ROOT_CERTS.value] = (ca.folder / "ca.pem").read_text()
    if certificate is not None:
        kwargs[OPTIONS.MTLS_CERT_CHAIN.value], kwargs[OPTIONS.MTLS_PRIVATE_KEY.value] = certificate
    return adbc_driver_flightsql.dbapi.connect(f"{scheme}://{host}:{port(server)}", db_kwargs=kwargs, autocommit=True)


def not_reached(connect):
    """The text of a connection that comes to no answer of the server's, be it a refusal."""
    with pytest.raises(adbc_driver_manager.Error) as caught:
        with connect() as connection:
            one(connection, "SELECT 1")
    assert caught.value.status_code != STATUS.UNAUTHENTICATED
    assert "Unavailable" in str(caught.value) or caught.value.status_code == STATUS.IO, caught.value
    return str(caught.value)


# --- ADBC ---


def test_who_trusts_the_authority_is_served(server, authority):
    with connect(server, authority) as admin:
        assert one(admin, "SELECT current_user") == "admin"
        # More than one record of TLS, and than one window of HTTP/2.
        result = table(admin, "SELECT value, repeat('x', 100) AS x FROM generate_series(1, 100000)")
        assert result.num_rows == 100_000 and set(result["x"].to_pylist()) == {"x" * 100}
        run(admin, "CREATE USER tls_user PASSWORD 'a long password'")
        with connect(server, authority, username="tls_user", password="a long password") as other:
            assert one(other, "SELECT current_user") == "tls_user"
    with pytest.raises(adbc_driver_manager.Error) as caught:
        with connect(server, authority, username="admin", password="wrong") as connection:
            one(connection, "SELECT 1")
    assert caught.value.status_code == STATUS.UNAUTHENTICATED


REFUSED = {
    "in the clear": (dict(scheme="grpc"), ""),
    "the system's authorities": (dict(), "unknown authority"),
    "another authority of that name": (dict(ca="stranger"), "unknown authority"),
    "another name of the machine": (dict(ca="authority", host="127.0.0.1"), "127.0.0.1"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_who_does_not_is_not(server, authority, stranger, how):
    arguments, said = REFUSED[how]
    authorities = {"authority": authority, "stranger": stranger, None: None}
    with connect(server, authority) as admin:
        sign_ins = "SELECT count(*) FROM system.audit WHERE statement <> ?"
        before = one(admin, sign_ins, [sign_ins])
        text = not_reached(lambda: connect(server, **(arguments | {"ca": authorities[arguments.get("ca")]})))
        assert said in text
        assert one(admin, sign_ins, [sign_ins]) == before, "it was asked who that is"


def test_the_clear_gets_no_answer(server):
    """Not one frame of HTTP/2: the end of the connection, or an alert of TLS before it."""
    with socket.create_connection(("127.0.0.1", int(port(server))), timeout=30) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(4096):
                answer += part
    alert = 21
    assert answer == b"" or answer[0] == alert and len(answer) == 7, answer


def test_a_certificate_is_asked_for_where_there_is_an_authority_of_clients(strict_server, authority, stranger):
    not_reached(lambda: connect(strict_server, authority))
    not_reached(lambda: connect(strict_server, authority, certificate=stranger.sign("client", "/CN=client", CLIENT)))
    # One that was made for a server is none of a client.
    of_a_server = authority.sign("other", "/CN=other", "extendedKeyUsage=serverAuth")
    not_reached(lambda: connect(strict_server, authority, certificate=of_a_server))
    with connect(strict_server, authority, certificate=authority.sign("client", "/CN=client", CLIENT)) as admin:
        assert one(admin, "SELECT current_user") == "admin"


# --- JDBC ---


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    source = support.ROOT / "tests" / "jdbc" / "JdbcConnect.java"
    subprocess.run(["javac", "-encoding", "UTF-8", "-d", folder, source], check=True, timeout=JAVA_S)
    return folder


def trust_store(authority):
    path = authority.folder / "trust.p12"
    if not path.exists():
        store = ["-keystore", path, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
        subprocess.run(["keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", authority.path("ca.pem"), *store], check=True, capture_output=True)
    return {"useSystemTrustStore": "false", "trustStore": str(path), "trustStorePassword": STORE_PASSWORD}


def roots(authority):
    return {"useSystemTrustStore": "false", "tlsRootCerts": authority.path("ca.pem")}


@pytest.mark.parametrize("version", (support.ROOT / "tests" / "parts" / "jdbc-versions.txt").read_text().split())
def test_jdbc(version, server, strict_server, authority, stranger, classes):
    authority.sign("jdbc", "/CN=jdbc", CLIENT)
    certificate = {"clientCertificate": authority.path("jdbc.pem"), "clientKey": authority.path("jdbc.key")}
    encrypted = {"useEncryption": "true"}
    # By name: the server, its host, what the URL says, and what an error says where that is refused.
    cases = {
        "a trust store": (server, "localhost", encrypted | trust_store(authority), None),
        "a file of authorities": (server, "localhost", encrypted | roots(authority), None),
        "encryption is the default": (server, "localhost", roots(authority), None),
        "in the clear": (server, "localhost", {"useEncryption": "false"}, "First received frame was not SETTINGS"),
        "the system's authorities": (server, "localhost", encrypted, "PKIX"),
        "another authority of that name": (server, "localhost", encrypted | trust_store(stranger), "PKIX"),
        "another name of the machine": (server, "127.0.0.1", encrypted | roots(authority), "No subject alternative names"),
        "a certificate of one's own": (strict_server, "localhost", encrypted | roots(authority) | certificate, None),
        "none where one is asked for": (strict_server, "localhost", encrypted | roots(authority), "CERTIFICATE_REQUIRED"),
    }
    who = {"user": "admin", "password": support.ADMIN_PASSWORD}
    urls = [
        f"jdbc:arrow-flight-sql://{host}:{port(to)}/?{urllib.parse.urlencode(who | said, quote_via=urllib.parse.quote)}"
        for to, host, said, _ in cases.values()
    ]
    jar = support.PARTS / "jdbc" / f"flight-sql-jdbc-driver-{version}.jar"
    java = ["java", "-Xmx256m", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", f"{classes}:{jar}", "JdbcConnect"]
    done = subprocess.run([*java, *urls], capture_output=True, text=True, timeout=JAVA_S)
    found = dict(zip(cases, (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), strict=True))
    for name, (_, _, _, refused) in cases.items():
        if refused is None:
            assert found[name] == {"user": "admin"}, name
        else:
            assert refused in found[name].get("error", ""), (name, found[name])


# --- the shell ---


def shell(url, *arguments):
    env = {key: value for key, value in os.environ.items() if not key.startswith("LAZARET_")} | {"LAZARET_PASSWORD": support.ADMIN_PASSWORD}
    command = [support.binary(), "sql", "--url", url, *arguments, "--format", "csv", "-c", "SELECT current_user AS who"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def test_the_shell(server, authority, stranger):
    url = f"grpc+tls://localhost:{port(server)}"
    done = shell(url, "--ca-file", authority.path("ca.pem"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "who\nadmin\n", "")
    refused = {
        "the system's authorities": (url, []),
        "another authority of that name": (url, ["--ca-file", stranger.path("ca.pem")]),
        "another name of the machine": (f"grpc+tls://127.0.0.1:{port(server)}", ["--ca-file", authority.path("ca.pem")]),
        "in the clear": (f"grpc://localhost:{port(server)}", []),
    }
    for name, (where, arguments) in refused.items():
        done = shell(where, *arguments)
        assert done.returncode != 0 and done.stdout == "", name
        assert done.stderr.strip(), name
        if "authorit" in name or "name of the machine" in name:
            assert f"cannot reach {where}: invalid peer certificate" in done.stderr, (name, done.stderr)


# --- the start ---


def start(folder, listen, config=""):
    """A start that must fail: how it ended, and what it said."""
    folder.mkdir(exist_ok=True)
    (folder / "lazaret.toml").write_text(f'admin_listen = ""\n{config}')
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LAZARET_", "AWS_"))} | {"LAZARET_ADMIN_PASSWORD": support.ADMIN_PASSWORD}
    command = [support.binary(), "serve", "--data-dir", folder / "data", "--listen", listen, "--config", folder / "lazaret.toml"]
    return subprocess.run(command, capture_output=True, text=True, timeout=support.READY_S, env=env)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"])
def test_without_tls_only_this_machine_is_listened_to(tmp_path, listen):
    done = start(tmp_path / "server", listen)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not a loopback address" in done.stderr and "insecure = true" in done.stderr
    assert not (tmp_path / "server" / "data").exists(), "nothing was made"


@pytest.mark.parametrize("way", ["insecure", "tls"])
def test_every_machine_is_listened_to_where_that_is_said_or_encrypted(tmp_path, authority, way):
    config = "insecure = true\n" if way == "insecure" else section(authority)
    with support.serving(tmp_path / "server", config=config, listen="0.0.0.0:0") as server:
        with server.connect() if way == "insecure" else connect(server, authority) as admin:
            assert one(admin, "SELECT 1") == 1
        warned = "cross the network in the clear" in server.log.read_text()
        assert warned == (way == "insecure")


WRONG_FILES = {
    "only a certificate": (dict(key_file=None), 2, '[tls] has no "tls.key_file"'),
    "only a key": (dict(cert_file=None), 2, '[tls] has no "tls.cert_file"'),
    "no such file": (dict(key_file="nowhere.key"), 1, "nowhere.key"),
    "the key of another certificate": (dict(key_file="ca.key"), 1, "ca.key"),
    "no key in the file of the key": (dict(key_file="server.pem"), 1, "server.pem"),
    "no certificate in the file of certificates": (dict(cert_file="server.key"), 1, "server.key"),
    "an authority of clients that is none": (dict(client_ca_file="server.key"), 1, "server.key"),
}


def start_with(authority, folder, files):
    given = {key: name for key, name in ({"cert_file": "server.pem", "key_file": "server.key"} | files).items() if name is not None}
    config = "[tls]\n" + "".join(f"{key} = {json.dumps(authority.path(name))}\n" for key, name in given.items())
    return start(folder, "127.0.0.1:0", config)


@pytest.mark.parametrize("case", WRONG_FILES)
def test_nothing_is_served_with_what_is_wrong(tmp_path, authority, case):
    files, code, _ = WRONG_FILES[case]
    done = start_with(authority, tmp_path / "server", files)
    assert done.returncode == code
    key = "".join((authority.folder / "server.key").read_text().splitlines()[1:3])
    assert key[:40] not in done.stderr and "panicked" not in done.stderr


@pytest.mark.parametrize("case", WRONG_FILES)
def test_what_is_wrong_is_named_and_nobody_is_told_that_it_is_ready(tmp_path, authority, case):
    files, _, said = WRONG_FILES[case]
    done = start_with(authority, tmp_path / "server", files)
    assert done.stdout == "" and said in done.stderr
