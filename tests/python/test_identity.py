"""Who is asking, and with which roles: SET ROLE, service tokens, client certificates, and that what is taken away is gone at
once, from whatever is open."""

import base64
import contextlib
import datetime
import json
import shutil
import subprocess

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pytest

import support
from support import Raw, failure, one, rows, run, table, update

STATUS = adbc_driver_manager.AdbcStatusCode
PASSWORD = "a long password"
SECRETS = "SELECT id FROM s.secrets ORDER BY id"


@pytest.fixture(scope="module")
def server(oidc, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), config=oidc.section) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA s",
                "CREATE TABLE s.secrets AS SELECT value AS id FROM generate_series(1, 4)",
                "CREATE ROLE reader",
                "CREATE ROLE other",
                "GRANT SELECT ON TABLE s.secrets TO ROLE reader",
                f"CREATE USER ana PASSWORD '{PASSWORD}'",
                "GRANT ROLE reader TO USER ana",
                "GRANT ROLE other TO USER ana",
                "CREATE USER etl",
                "GRANT ROLE reader TO USER etl",
                "GRANT ROLE reader TO GROUP 'hospital:readers'",
            )
        yield server


@pytest.fixture
def ana(server):
    with server.connect("ana", PASSWORD) as connection:
        yield connection


def refused(connect):
    """The text of a connection that must not be let in."""
    with pytest.raises(adbc_driver_manager.Error) as caught:
        with connect() as connection:
            one(connection, "SELECT 1")
    assert caught.value.status_code == STATUS.UNAUTHENTICATED
    return str(caught.value)


# --- roles ---


def test_a_prepared_statement_runs_with_the_roles_of_the_moment(ana):
    with ana.cursor() as cursor:
        cursor.adbc_prepare(SECRETS)
        cursor.execute(SECRETS)
        assert cursor.fetchall() == [(1,), (2,), (3,), (4,)]
        run(ana, "SET ROLE other")
        with pytest.raises(adbc_driver_manager.Error) as caught:
            cursor.execute(SECRETS)
            cursor.fetchall()
        assert caught.value.status_code == STATUS.NOT_FOUND
        run(ana, "SET ROLE reader")
        cursor.execute(SECRETS)
        assert cursor.fetchall() == [(1,), (2,), (3,), (4,)]


def test_a_ticket_is_redeemed_with_the_roles_of_the_moment(server):
    raw = Raw(server, "ana", PASSWORD)

    def say(sql):
        raw.fetch(raw.ticket(sql))

    ticket = raw.ticket(SECRETS)
    say("SET ROLE NONE")
    assert "not found" in raw.refused(ticket)
    say("SET ROLE ALL")
    ticket = raw.ticket("SELECT has_role('reader') AS reader, has_role('other') AS other")
    say("SET ROLE other")
    assert raw.fetch(ticket).to_pylist() == [{"reader": False, "other": True}]


def test_each_connection_has_its_own_roles(server, ana):
    run(ana, "SET ROLE NONE")
    with server.connect("ana", PASSWORD) as second:
        assert one(second, "SELECT has_role('reader')") is True
    assert one(ana, "SELECT has_role('reader')") is False
    assert sorted(rows(ana, "SHOW ROLES")) == [("other", "USER ana", False), ("reader", "USER ana", False)]


def test_a_connection_that_keeps_no_session_sets_no_role(server, oidc):
    with server.connect(token=oidc.token("eva", groups=["readers"])) as connection:
        error = failure(connection, "SET ROLE reader")
        assert "keeps no session" in str(error)
        assert one(connection, "SELECT has_role('reader')") is True
    cookies = {adbc_driver_flightsql.DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
    header = {adbc_driver_flightsql.DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {oidc.token('eva', groups=['readers'])}"}
    with adbc_driver_flightsql.dbapi.connect(server.url, db_kwargs=header | cookies, autocommit=True) as connection:
        assert table(connection, SECRETS).num_rows == 4
        run(connection, "SET ROLE NONE")
        assert failure(connection, SECRETS).status_code == STATUS.NOT_FOUND


def test_the_audit_has_the_active_roles(admin, ana):
    run(ana, "SET ROLE reader", "SELECT 'with one role'", "SET ROLE NONE", "SELECT 'with none'")
    query = "SELECT roles FROM system.audit WHERE statement = ?"
    assert one(admin, query, ["SELECT 'with one role'"]) == ["reader"]
    assert one(admin, query, ["SELECT 'with none'"]) == []


# --- service tokens ---


def created(connection, name, user="etl", expires="IN 30 DAYS"):
    """The token, and its id as the audit has it."""
    ((token, token_id, *_),) = rows(connection, f"CREATE TOKEN {name} FOR USER {user} EXPIRES {expires}")
    return token, token_id


def test_a_token_is_a_bearer_and_a_password(server, admin):
    result = table(admin, "CREATE TOKEN bi FOR USER etl EXPIRES '2099-01-02T03:04:05Z'")
    assert result.column_names == ["token", "token_id", "name", "user", "expires_at"]
    (row,) = result.to_pylist()
    expires = datetime.datetime(2099, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    assert (row["name"], row["user"], row["expires_at"]) == ("bi", "etl", expires)
    token = row["token"]
    for connect in (lambda: server.connect(token=token), lambda: server.connect("etl", token)):
        with connect() as connection:
            assert one(connection, "SELECT current_user") == "etl"
            assert one(connection, "SELECT claim('sub')") == "etl"
            assert table(connection, SECRETS).num_rows == 4
            # It keeps a session, by itself.
            run(connection, "SET batch_size = 100")
            assert one(connection, "SELECT value FROM system.settings WHERE name = 'batch_size'") == "100"
            assert "cannot create tokens" in str(failure(connection, "CREATE TOKEN more FOR USER etl EXPIRES IN 1 DAYS"))
            assert failure(connection, f"ALTER USER etl PASSWORD '{PASSWORD}'").status_code == STATUS.UNAUTHORIZED
            assert [line[:3] for line in rows(connection, "SHOW TOKENS")] == [("etl", "bi", row["token_id"])]
    text = refused(lambda: server.connect("ana", token))
    assert text == refused(lambda: server.connect("nobody", token))
    run(admin, "DROP TOKEN bi FOR USER etl")


def test_a_token_is_nowhere_but_in_its_answer(server, admin):
    statement = "CREATE TOKEN hidden FOR USER etl EXPIRES IN 1 DAYS"
    ((token, token_id, *_),) = rows(admin, statement)
    secret = token.split("_", 2)[2]
    with server.connect("etl", token) as connection:
        assert one(connection, "SELECT 'seen by the audit'") == "seen by the audit"
        failure(connection, "SELECT * FROM nothing")
    assert rows(admin, "SELECT status, rows_returned FROM system.audit WHERE statement = ?", [statement]) == [("ok", 1)]
    who = "SELECT principal, issuer, subject, token_id FROM system.audit WHERE statement = ?"
    assert rows(admin, who, ["SELECT 'seen by the audit'"]) == [("etl", "local", "etl", token_id)]
    shown = str(rows(admin, "SHOW TOKENS")) + str(rows(admin, "SELECT * FROM system.audit"))
    assert token_id in shown and secret not in shown
    refused(lambda: server.connect("etl", token + "x"))
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    holding = [path for path in files if secret.encode() in path.read_bytes()]
    assert files and not holding
    run(admin, "DROP TOKEN hidden FOR USER etl")


def test_a_token_is_made_once(server, admin):
    raw = Raw(server, "admin", support.ADMIN_PASSWORD)
    info = raw.info("CREATE TOKEN once FOR USER etl EXPIRES IN 1 DAYS")
    assert info.schema.names == ["token", "token_id", "name", "user", "expires_at"] and info.total_records == 1
    # A driver that asks for the result again gets the same; one that never asks has made the token all the same.
    first, second = (raw.fetch(info.endpoints[0].ticket).to_pylist() for _ in range(2))
    assert first == second and len(first) == 1
    assert "not found" in Raw(server, "ana", PASSWORD).refused(info.endpoints[0].ticket)
    raw.info("CREATE TOKEN unread FOR USER etl EXPIRES IN 1 DAYS")
    assert [line[1] for line in rows(admin, "SHOW TOKENS FOR USER etl")] == ["once", "unread"]
    with admin.cursor() as cursor:
        sql = "CREATE TOKEN prepared FOR USER etl EXPIRES IN 1 DAYS"
        cursor.adbc_prepare(sql)
        assert [line[1] for line in rows(admin, "SHOW TOKENS FOR USER etl")] == ["once", "unread"], "preparing makes nothing"
        cursor.execute(sql)
        assert len(cursor.fetchall()) == 1
        with pytest.raises(adbc_driver_manager.Error) as caught:
            cursor.execute(sql)
        assert caught.value.status_code == STATUS.ALREADY_EXISTS
    # Where there is no way to answer with rows, nothing is made.
    with pytest.raises(adbc_driver_manager.Error, match="returns rows"):
        update(admin, "CREATE TOKEN updated FOR USER etl EXPIRES IN 1 DAYS")
    assert [line[1] for line in rows(admin, "SHOW TOKENS FOR USER etl")] == ["once", "prepared", "unread"]
    run(admin, *(f"DROP TOKEN {name} FOR USER etl" for name in ("once", "prepared", "unread")))


def test_a_token_outlives_the_server_and_a_new_password(tmp_path):
    with support.serving(tmp_path / "server") as server:
        with server.connect() as admin:
            run(admin, f"CREATE USER bot PASSWORD '{PASSWORD}'")
            token, _ = created(admin, "t", "bot")
            run(admin, "ALTER USER bot PASSWORD 'another long password'")
        server.kill()
        server.start()
        with server.connect("bot", token) as connection:
            assert one(connection, "SELECT current_user") == "bot"


def test_a_token_ends_at_its_time(server, admin):
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=3)
    token, _ = created(admin, "brief", expires=f"'{soon.isoformat(timespec='seconds')}'")
    raw = Raw(server, token=token)
    ticket, outcome = raw.ticket("SELECT 1 AS one"), None
    # Until the end it is let in; what is not let in is refused for the token, whatever is open.
    while outcome is None:
        try:
            raw.fetch(ticket)
        except Exception as error:
            outcome = str(error)
    assert "authentication failed" in outcome
    assert datetime.datetime.now(datetime.timezone.utc) >= soon.replace(microsecond=0)
    refused(lambda: server.connect("etl", token))
    run(admin, "DROP TOKEN brief FOR USER etl")


# --- what is taken away is gone at once ---


@pytest.fixture(params=["password", "token", "issuer"])
def reader(request, server, admin, oidc):
    """Somebody who reads through a role: how to connect, how to fetch, and the statements that take the role and give it."""
    if request.param == "password":
        connect, raw, who = (lambda: server.connect("ana", PASSWORD)), (lambda: Raw(server, "ana", PASSWORD)), "USER ana"
    elif request.param == "token":
        token, _ = created(admin, "reads")
        connect, raw, who = (lambda: server.connect(token=token)), (lambda: Raw(server, token=token)), "USER etl"
    else:
        token = oidc.token("eva", groups=["readers"])
        connect, raw, who = (lambda: server.connect(token=token)), (lambda: Raw(server, token=token)), "GROUP 'hospital:readers'"
    yield connect, raw, f"REVOKE ROLE reader FROM {who}", f"GRANT ROLE reader TO {who}"
    run(admin, f"GRANT ROLE reader TO {who}", "GRANT SELECT ON TABLE s.secrets TO ROLE reader")
    if request.param == "token":
        run(admin, "DROP TOKEN reads FOR USER etl")


def test_revocation_counts_for_sessions_prepared_statements_and_tickets(admin, reader):
    connect, raw, take, give = reader
    changes = [
        (take, give),
        ("REVOKE SELECT ON TABLE s.secrets FROM ROLE reader", "GRANT SELECT ON TABLE s.secrets TO ROLE reader"),
        ("DENY SELECT ON TABLE s.secrets TO ROLE reader", "REVOKE SELECT ON TABLE s.secrets FROM ROLE reader"),
    ]
    for change, back in changes:
        step = raw()
        with connect() as connection, connection.cursor() as prepared:
            prepared.adbc_prepare(SECRETS)
            prepared.execute(SECRETS)
            assert len(prepared.fetchall()) == 4
            ticket = step.ticket(SECRETS)
            run(admin, change)
            assert "not found" in step.refused(ticket), change
            with pytest.raises(adbc_driver_manager.Error) as caught:
                prepared.execute(SECRETS)
                prepared.fetchall()
            assert caught.value.status_code == STATUS.NOT_FOUND, change
            assert failure(connection, SECRETS).status_code == STATUS.NOT_FOUND, change
            run(admin, back, "GRANT SELECT ON TABLE s.secrets TO ROLE reader")
            assert table(connection, SECRETS).num_rows == 4


@pytest.mark.parametrize("end", ["ALTER USER gone DISABLE", "DROP USER gone", "DROP TOKEN t FOR USER gone"])
@pytest.mark.parametrize("way", ["password", "bearer", "token as a password"])
def test_a_user_or_token_that_is_gone_is_refused_whatever_is_open(server, admin, way, end):
    run(admin, f"CREATE USER gone PASSWORD '{PASSWORD}'", "GRANT ROLE reader TO USER gone")
    token, _ = created(admin, "t", "gone")
    connect, raw = {
        "password": (lambda: server.connect("gone", PASSWORD), lambda: Raw(server, "gone", PASSWORD)),
        "bearer": (lambda: server.connect(token=token), lambda: Raw(server, token=token)),
        "token as a password": (lambda: server.connect("gone", token), lambda: Raw(server, "gone", token)),
    }[way]
    step = raw()
    with connect() as connection:
        prepared = connection.cursor()
        prepared.adbc_prepare(SECRETS)
        ticket = step.ticket(SECRETS)
        run(admin, end)
        if way == "password" and end.startswith("DROP TOKEN"):
            assert step.fetch(ticket).num_rows == 4, "a password is not a token"
        else:
            assert "authentication failed" in step.refused(ticket)
            assert failure(connection, "SELECT 1").status_code == STATUS.UNAUTHENTICATED
            with pytest.raises(adbc_driver_manager.Error) as caught:
                prepared.execute(SECRETS)
                prepared.fetchall()
            assert caught.value.status_code == STATUS.UNAUTHENTICATED
            refused(connect)
        # To close it is a call as well, and refused.
        with contextlib.suppress(adbc_driver_manager.Error):
            prepared.close()
    run(admin, "DROP USER IF EXISTS gone")


# --- client certificates ---

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


class Authority:
    """A certificate authority, and what it signs."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        folder.mkdir()
        self.openssl("req", "-x509", *self.new_key("ca"), "-out", self.path("ca.pem"), "-days", "2", "-subj", f"/CN={name}")

    def path(self, name):
        return str(self.folder / name)

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def new_key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.path(f"{name}.key")]

    def sign(self, name, subject, extension, days="2"):
        """The texts of a certificate and its key."""
        self.openssl("req", *self.new_key(name), "-out", self.path(f"{name}.csr"), "-utf8", "-subj", subject)
        (self.folder / "extensions").write_text(extension)
        ca = ["-CA", self.path("ca.pem"), "-CAkey", self.path("ca.key"), "-CAcreateserial", "-extfile", self.path("extensions")]
        self.openssl("x509", "-req", "-in", self.path(f"{name}.csr"), *ca, "-out", self.path(f"{name}.pem"), "-days", days)
        return (self.folder / f"{name}.pem").read_text(), (self.folder / f"{name}.key").read_text()


CLIENT = "extendedKeyUsage=clientAuth"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours", "Hospital CA")


@pytest.fixture(scope="module")
def tls_server(oidc, authority, tmp_path_factory):
    authority.sign("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    files = {"cert_file": "server.pem", "key_file": "server.key", "client_ca_file": "ca.pem"}
    section = "[tls]\n" + "".join(f"{key} = {json.dumps(authority.path(name))}\n" for key, name in files.items())
    with support.serving(tmp_path_factory.mktemp("tls_server"), config=section + oidc.section) as server:
        yield server


@pytest.fixture(scope="module")
def over_tls(tls_server, authority):
    """Connects with a certificate and, where they are given, other credentials."""
    options = adbc_driver_flightsql.DatabaseOptions
    port = tls_server.address.rsplit(":", 1)[1]

    def connect(certificate, **credentials):
        chain, key = certificate
        kwargs = {
            options.TLS_ROOT_CERTS.value: (authority.folder / "ca.pem").read_text(),
            options.MTLS_CERT_CHAIN.value: chain,
            options.MTLS_PRIVATE_KEY.value: key,
            **credentials,
        }
        return adbc_driver_flightsql.dbapi.connect(f"grpc+tls://localhost:{port}", db_kwargs=kwargs, autocommit=True)

    return connect


@pytest.fixture(scope="module")
def tls_admin(over_tls, authority):
    certificate = authority.sign("anybody", "/CN=anybody", CLIENT)
    with over_tls(certificate, username="admin", password=support.ADMIN_PASSWORD) as connection:
        run(connection, "CREATE USER etl", "CREATE USER bi", f"CREATE USER ana PASSWORD '{PASSWORD}'")
        yield connection


@needs_openssl
def test_a_certificate_is_the_user_of_its_subject(over_tls, authority, tls_admin):
    certificate = authority.sign("etl", "/C=PT/O=Hospital de São João, Lda/CN=etl", CLIENT)
    refused(lambda: over_tls(certificate))
    run(tls_admin, r"ALTER USER etl SET CERTIFICATE SUBJECT 'cn=etl, O=Hospital de S\C3\A3o João\, Lda, C=PT'")
    with over_tls(certificate) as connection:
        assert rows(connection, "SELECT current_user, claim('sub'), claim('region')") == [("etl", "etl", None)]
        assert failure(connection, f"ALTER USER etl PASSWORD '{PASSWORD}'").status_code == STATUS.UNAUTHORIZED
        assert failure(connection, "CREATE TOKEN t FOR USER etl EXPIRES IN 1 DAYS").status_code == STATUS.UNAUTHORIZED
        assert failure(connection, "SHOW TOKENS FOR USER bi").status_code == STATUS.UNAUTHORIZED
        # An open connection is refused as soon as the user is.
        run(tls_admin, "ALTER USER etl DISABLE")
        assert failure(connection, "SELECT 1").status_code == STATUS.UNAUTHENTICATED
        run(tls_admin, "ALTER USER etl ENABLE")
        assert one(connection, "SELECT current_user") == "etl"
        # The subject goes to another user, and the certificate with it.
        subject = r"CN=etl,O=Hospital de São João\, Lda,C=PT"
        run(tls_admin, "ALTER USER etl SET CERTIFICATE SUBJECT NULL", f"ALTER USER bi SET CERTIFICATE SUBJECT '{subject}'")
        assert one(connection, "SELECT current_user") == "bi"
        run(tls_admin, "DROP USER bi")
        assert failure(connection, "SELECT 1").status_code == STATUS.UNAUTHENTICATED
    run(tls_admin, "CREATE USER bi")
    refused(lambda: over_tls(certificate))
    audited = "SELECT DISTINCT principal FROM system.audit WHERE statement = 'SELECT current_user' ORDER BY principal"
    assert [row[0] for row in rows(tls_admin, audited)] == ["bi", "etl"]


@needs_openssl
def test_a_certificate_keeps_a_session_by_cookie(over_tls, authority, tls_admin):
    certificate = authority.sign("cookie", "/CN=cookie", CLIENT)
    run(tls_admin, "ALTER USER etl SET CERTIFICATE SUBJECT 'CN=cookie'")
    with over_tls(certificate) as connection:
        assert "keeps no session" in str(failure(connection, "SET ROLE NONE"))
    cookies = {adbc_driver_flightsql.DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
    with over_tls(certificate, **cookies) as connection:
        run(connection, "SET batch_size = 100")
        assert one(connection, "SELECT value FROM system.settings WHERE name = 'batch_size'") == "100"
    run(tls_admin, "ALTER USER etl SET CERTIFICATE SUBJECT NULL")


@needs_openssl
def test_a_credential_counts_before_a_certificate(over_tls, authority, tls_admin, oidc):
    certificate = authority.sign("both", "/CN=both", CLIENT)
    run(tls_admin, "ALTER USER etl SET CERTIFICATE SUBJECT 'CN=both'")
    header = adbc_driver_flightsql.DatabaseOptions.AUTHORIZATION_HEADER.value
    token, _ = created(tls_admin, "t", "bi")
    for credentials, who in [
        ({"username": "ana", "password": PASSWORD}, "ana"),
        ({"username": "bi", "password": token}, "bi"),
        ({header: f"Bearer {token}"}, "bi"),
        ({header: f"Bearer {oidc.token('eva')}"}, "hospital:eva"),
        ({}, "etl"),
    ]:
        with over_tls(certificate, **credentials) as connection:
            assert one(connection, "SELECT current_user") == who
    basic = base64.b64encode(b"ana:wrong").decode()
    for bad in (f"Basic {basic}", "Bearer nonsense", f"Bearer {token}x", "Digest x"):
        refused(lambda: over_tls(certificate, **{header: bad}))
    refused(lambda: over_tls(certificate, username="ana", password="wrong"))
    run(tls_admin, "ALTER USER etl SET CERTIFICATE SUBJECT NULL", "DROP TOKEN t FOR USER bi")


@needs_openssl
def test_certificates_that_tls_does_not_verify_are_nobody(over_tls, authority, tls_admin, tmp_path):
    """The subject alone says nothing: signed by others, or over."""
    run(tls_admin, "ALTER USER etl SET CERTIFICATE SUBJECT 'CN=etl'")
    others = Authority(tmp_path / "others", "Hospital CA").sign("etl", "/CN=etl", CLIENT)
    expired = authority.sign("expired", "/CN=etl", CLIENT, days="-1")
    for certificate in (others, expired):
        with pytest.raises(adbc_driver_manager.Error) as caught:
            with over_tls(certificate) as connection:
                one(connection, "SELECT 1")
        assert "UNAVAILABLE" in str(caught.value) or caught.value.status_code == STATUS.IO
    with over_tls(authority.sign("good", "/CN=etl", CLIENT)) as connection:
        assert one(connection, "SELECT current_user") == "etl"
    run(tls_admin, "ALTER USER etl SET CERTIFICATE SUBJECT NULL")


# --- groups bind inside what their members make ---


def test_a_view_or_policy_of_ones_own_leads_past_no_group(server, admin, oidc):
    """A group is known while its token is shown; what its member made then is bound by it later, for whoever reads it."""
    run(
        admin,
        "CREATE SCHEMA groups",
        "CREATE SCHEMA evas",
        "CREATE TABLE groups.person AS SELECT value AS id, concat('ssn-', CAST(value AS VARCHAR)) AS ssn FROM generate_series(1, 4)",
        "CREATE USER outsider PASSWORD 'outsider-password'",
        """GRANT SELECT ON TABLE groups.person TO USER "hospital:mallory" """,
        """GRANT CREATE ON SCHEMA evas TO USER "hospital:mallory" """,
        "DENY SELECT (ssn) ON TABLE groups.person TO GROUP 'hospital:externals'",
    )
    with server.connect(token=oidc.token("mallory", groups=["externals"])) as mallory:
        run(
            mallory,
            "CREATE VIEW evas.around AS SELECT * FROM groups.person",
            "CREATE TABLE evas.guess AS SELECT value AS id, concat('ssn-', CAST(value AS VARCHAR)) AS ssn FROM generate_series(1, 4)",
            "GRANT SELECT ON VIEW evas.around TO USER outsider",
        )
        assert rows(mallory, "SELECT * FROM evas.around ORDER BY id") == [(1,), (2,), (3,), (4,)]
        assert failure(mallory, "SELECT ssn FROM evas.around").status_code == STATUS.NOT_FOUND
        run(admin, """GRANT MANAGE POLICIES ON TABLE evas.guess TO USER "hospital:mallory" """)
        failure(
            mallory,
            "CREATE POLICY g ON TABLE evas.guess TO ALL USING "
            "(EXISTS (SELECT 1 FROM groups.person p WHERE p.id = guess.id AND p.ssn = guess.ssn))",
        )
    with server.connect("outsider", "outsider-password") as outsider:
        assert failure(outsider, "SELECT ssn FROM evas.around").status_code == STATUS.NOT_FOUND
