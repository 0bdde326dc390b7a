#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::*;

struct Given {
    folder: tempfile::TempDir,
    sources: Sources,
}

fn given(file: &str) -> Given {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lazaret.toml");
    fs::write(&path, file).unwrap();
    Given { folder, sources: Sources { file: Some(path), ..Sources::default() } }
}

impl Given {
    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.variables.push((OsString::from(name), OsString::from(value)));
        self
    }

    fn flag(mut self, flag: &'static str, key: &'static str, value: &str) -> Self {
        self.sources.flags.push((flag, key, value.to_owned()));
        self
    }

    fn load(&self) -> Loaded {
        load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    /// With the folder taken out.
    fn error(&self) -> String {
        load(&self.sources).unwrap_err().to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}

#[test]
fn an_empty_file_is_the_defaults() {
    let loaded = given("").load();
    let config = &loaded.config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:32010");
    assert_eq!(config.admin_listen, OptionalAddress::loopback(32011));
    assert_eq!(config.data_dir, Path::new("lazaret-data"));
    assert_eq!(config.limits.memory_bytes, Size::Percent(80));
    assert_eq!(config.limits.query_memory_bytes, Size::Percent(50));
    assert_eq!(config.limits.statement_bytes, 1_048_576);
    assert_eq!(
        (config.cache.footer_bytes, config.cache.snapshot_bytes, config.cache.data_bytes),
        (268_435_456, 536_870_912, Size::Percent(20))
    );
    assert_eq!(config.audit.retention_days, 3650);
    assert!(config.tls.is_none() && config.issuers.is_empty() && config.stores.is_empty());
    assert_eq!(loaded.origin("listen"), None);
}

#[test]
fn every_key_of_the_contract_is_read() {
    let given = given(
        r#"
listen = "127.0.0.1:1"
admin_listen = ""
data_dir = "d"
allowed_paths = ["/srv/lake"]
metadata = "sqlite"
insecure = false
admin_password = "pw"
[tls]
cert_file = "server.pem"
key_file = "server.key"
client_ca_file = "clients.pem"
[[issuers]]
name = "hospital"
issuer = "https://id.example.org/realms/health"
audience = ["lazaret"]
jwks_url = "https://id.example.org/certs"
algorithms = ["RS256", "ES256"]
subject_claim = "sub"
groups_claim = "groups"
leeway_s = 5
[stores.lake]
url = "s3://lake/"
endpoint = "http://127.0.0.1:9000"
region = "us-east-1"
access_key_id = "id"
secret_access_key = "key"
allow_http = true
[limits]
memory_bytes = "80%"
query_memory_bytes = 1000
statement_bytes = 1048576
query_timeout_s = 0
sessions = 1000
statements_per_session = 100
[cache]
footer_bytes = 268435456
snapshot_bytes = 536870912
data_bytes = 1073741824
[audit]
retention_days = 3650
"#,
    );
    let loaded = given.load();
    let config = &loaded.config;
    assert_eq!(config.admin_listen, OptionalAddress(None));
    assert_eq!(config.admin_password.expose(), "pw");
    assert_eq!(config.issuers[0].name, "hospital");
    assert_eq!(config.stores["lake"].secret_access_key.expose(), "key");
    assert_eq!(config.limits.query_memory_bytes, Size::Bytes(1000));
    assert!(matches!(loaded.origin("issuers.0.name"), Some(Origin::File { line: 14, .. })));
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = "listen = \"127.0.0.1:1\"\ndata_dir = \"file\"\n[cache]\nfooter_bytes = 1\n";
    let given = given(file)
        .variable("LAZARET_LISTEN", "127.0.0.1:2")
        .variable("LAZARET_CACHE__FOOTER_BYTES", "2")
        .variable("LAZARET_ALLOWED_PATHS", "/a, /b")
        .variable("PATH", "not ours")
        .flag("--listen", "listen", "localhost:3");
    let loaded = given.load();
    assert_eq!(loaded.config.listen.to_string(), "127.0.0.1:3");
    assert_eq!(loaded.config.cache.footer_bytes, 2);
    assert_eq!(loaded.config.data_dir, Path::new("file"));
    assert_eq!(loaded.config.allowed_paths, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(loaded.origin("listen"), Some(&Origin::Flag("--listen")));
    assert_eq!(loaded.origin("cache.footer_bytes"), Some(&Origin::Variable("LAZARET_CACHE__FOOTER_BYTES".to_owned())));
    assert!(matches!(loaded.origin("data_dir"), Some(Origin::File { line: 2, .. })));
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_nearest() {
    let error = given("data_dir = \"d\"\nlisen = \"127.0.0.1:1\"\n").error();
    assert_eq!(error, "lazaret.toml, line 2: unknown key \"lisen\"; the nearest known key is \"listen\"");
    let error = given("[cache]\n\nfoter_bytes = 1\n").error();
    assert_eq!(error, "lazaret.toml, line 3: unknown key \"cache.foter_bytes\"; the nearest known key is \"cache.footer_bytes\"");
    let error = given("footer_bytes = 1\n").error();
    assert_eq!(error, "lazaret.toml, line 1: unknown key \"footer_bytes\"; the nearest known key is \"cache.footer_bytes\"");
    let error = given("[limit]\nsessions = 1\n").error();
    assert!(error.starts_with("lazaret.toml, line 1: unknown key \"limit\"; the nearest known key is \"limits"), "{error}");
    let error = given("[[issuers]]\nnam = \"x\"\n").error();
    assert!(error.contains("line 2: unknown key \"issuers.0.nam\"; the nearest known key is \"issuers.0.name\""), "{error}");
}

#[test]
fn a_misspelt_variable_is_an_error_too() {
    let error = given("").variable("LAZARET_CACHE__FOOTER_BYTE", "1").error();
    assert_eq!(
        error,
        "variable LAZARET_CACHE__FOOTER_BYTE: unknown key \"cache.footer_byte\"; the nearest known key is \"cache.footer_bytes\" (LAZARET_CACHE__FOOTER_BYTES)"
    );
    let error = given("").variable("LAZARET_LISTEN__X", "1").error();
    assert!(error.starts_with("variable LAZARET_LISTEN__X: unknown key \"listen.x\""), "{error}");
    assert!(given("").variable("LAZARET_LIMITS", "1").error().contains("name a key in it"));
    given("").variable("LAZARET_PASSWORD", "x").variable("LAZARET_TOKEN", "x").variable("LAZARET_URL", "x").load();
}

#[test]
fn sections_are_set_by_variables() {
    let given = given("[stores.Lake]\nurl = \"s3://lake/\"\n")
        .variable("LAZARET_ISSUERS__0__NAME", "hospital")
        .variable("LAZARET_ISSUERS__0__ISSUER", "https://id.example.org")
        .variable("LAZARET_ISSUERS__0__AUDIENCE", "lazaret,other")
        .variable("LAZARET_ISSUERS__0__JWKS_FILE", "keys.json")
        .variable("LAZARET_STORES__LAKE__REGION", "eu-west-1")
        .variable("LAZARET_STORES__ICE__URL", "s3://ice/");
    let config = given.load().config;
    assert_eq!(config.issuers[0].audience, ["lazaret", "other"]);
    assert_eq!(config.stores["Lake"].region.as_deref(), Some("eu-west-1"));
    assert_eq!(config.stores["ice"].url, "s3://ice/");
    assert!(given.variable("LAZARET_ISSUERS__2__NAME", "x").error().contains("element 2 is given, but element 1 is not"));
}

#[test]
fn types_are_checked_where_they_are_written() {
    let cases = [
        ("insecure = \"yes\"", "lazaret.toml, line 1: \"insecure\": expected true or false, found string"),
        ("[limits]\nsessions = -1", "lazaret.toml, line 2: \"limits.sessions\": expected a whole number, 0 or more, found -1"),
        (
            "[limits]\nmemory_bytes = \"101%\"",
            "lazaret.toml, line 2: \"limits.memory_bytes\": expected a percentage from 1% to 100%, found \"101%\"",
        ),
        (
            "[limits]\nmemory_bytes = \"8 GB\"",
            "lazaret.toml, line 2: \"limits.memory_bytes\": expected bytes, or percent such as \"80%\", found \"8 GB\"",
        ),
        ("tls = true", "lazaret.toml, line 1: \"tls\": expected a section, found boolean"),
        (
            "listen = \"example.org:1\"",
            "lazaret.toml, line 1: \"listen\": expected an IP address and a port, such as \"127.0.0.1:32010\", found \"example.org:1\"",
        ),
        ("allowed_paths = \"/x\"", "lazaret.toml, line 1: \"allowed_paths\": expected a list of texts, found string"),
        ("allowed_paths = [\"x\"]", "lazaret.toml, line 1: \"allowed_paths\": x is not an absolute path"),
        ("[limits]\nsessions = 0", "lazaret.toml, line 2: \"limits.sessions\" is 0; at least 1"),
        ("metadata = \"postgres://x\"", "lazaret.toml, line 1: \"metadata\" can only be \"sqlite\"; other stores are not supported yet"),
    ];
    for (file, expected) in cases {
        assert_eq!(given(file).error(), expected, "{file}");
    }
    assert!(given("listen = \n").error().starts_with("lazaret.toml, line 1: "));
    let error = given("[cache]\ndata_bytes = \"100%\"").error();
    assert!(error.starts_with("lazaret.toml, line 2: \"cache.data_bytes\" leaves nothing for queries: "), "{error}");
    assert!(given("insecure = true\ninsecure = true\n").error().starts_with("lazaret.toml, line 2: duplicate key"));
    assert_eq!(
        given("").variable("LAZARET_INSECURE", "yes").error(),
        "variable LAZARET_INSECURE: \"insecure\": expected true or false, found \"yes\""
    );
}

#[test]
fn percent_is_of_the_machine_and_then_of_that() {
    let limits = Limits { memory_bytes: Size::Bytes(1000), query_memory_bytes: Size::Percent(25), ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let memory = config.memory_of(5000);
    assert_eq!((memory.data_cache_bytes, memory.all_queries_bytes, memory.one_query_bytes), (1000, 1000, 250));
    // Queries get a part of what hot data leave.
    let memory = Config::default().memory_of(5000);
    assert_eq!((memory.data_cache_bytes, memory.all_queries_bytes, memory.one_query_bytes), (1000, 3200, 1600));
    let cache = Cache { data_bytes: Size::Bytes(4000), ..Cache::default() };
    assert_eq!(Config { cache, ..Config::default() }.memory_of(5000).all_queries_bytes, 800);
    let config = given("").variable("LAZARET_LIMITS__MEMORY_BYTES", "12345").load().config;
    assert_eq!(config.limits.memory_bytes, Size::Bytes(12345));
}

#[test]
fn without_tls_it_listens_on_loopback_unless_told_otherwise() {
    let error = given("listen = \"0.0.0.0:32010\"\n").error();
    assert!(error.contains("not a loopback address") && error.contains("insecure = true"), "{error}");
    given("listen = \"0.0.0.0:32010\"\ninsecure = true\n").load();
    given("listen = \"0.0.0.0:32010\"\n[tls]\ncert_file = \"c\"\nkey_file = \"k\"\n").load();
    given("listen = \"[::1]:0\"\n").load();
    assert!(given("[tls]\ncert_file = \"c\"\n").error().contains("[tls] has no \"tls.key_file\""));
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let mut given = given("[stores.lake]\nurl = \"s3://lake/\"\naccess_key_id = \"hidden1\"\nsecret_access_key = \"hidden2\"\n");
    let path = given.folder.path().join("password");
    fs::write(&path, "hidden3\n").unwrap();
    given = given.variable("LAZARET_ADMIN_PASSWORD_FILE", path.to_str().unwrap());
    let loaded = given.load();
    assert_eq!(loaded.config.admin_password.expose(), "hidden3");
    let shown = format!("{}{:?}", show(&loaded), loaded.config);
    assert!(!shown.contains("hidden"), "{shown}");
    assert!(shown.contains("secret_access_key = \"***\""), "{shown}");
    let error = given.variable("LAZARET_ADMIN_PASSWORD", "x").error();
    assert!(error.contains("both \"admin_password\" and \"admin_password_file\" are given"), "{error}");
}

#[test]
fn a_secret_of_a_higher_layer_replaces_the_file_of_a_lower_one() {
    let given = given("admin_password_file = \"/nowhere\"\n");
    assert!(given.error().starts_with("lazaret.toml, line 1: \"admin_password_file\": cannot read /nowhere"));
    assert_eq!(given.variable("LAZARET_ADMIN_PASSWORD", "x").load().config.admin_password.expose(), "x");
}

#[test]
fn issuers_are_checked() {
    let error = given("[[issuers]]\nname = \"local\"\nissuer = \"i\"\naudience = [\"a\"]\njwks_file = \"f\"\npublic_key_file = \"p\"\nalgorithms = [\"HS256\"]\n").error();
    assert!(error.contains("the name \"local\" is taken"), "{error}");
    assert!(error.contains("exactly one of"), "{error}");
    assert!(error.contains("line 7: \"issuers.0.algorithms\": \"HS256\" is not one of RS256"), "{error}");
    assert!(given("[[issuers]]\nname = \"a:b\"\n").error().contains("cannot hold colons"));
}

#[test]
fn what_is_shown_can_be_read_again_and_says_where_from() {
    let file = "data_dir = \"d\"\n[[issuers]]\nname = \"h\"\nissuer = \"i\"\naudience = [\"a\"]\njwks_file = \"f\"\n[stores.\"my lake\"]\nurl = \"s3://l/\"\n";
    let shown = show(&given(file).flag("--listen", "listen", "127.0.0.1:9").load());
    assert!(shown.contains("listen = \"127.0.0.1:9\"") && shown.contains("# flag --listen"), "{shown}");
    assert!(shown.contains("lazaret.toml, line 1"), "{shown}");
    assert!(shown.contains("sessions = 1000                          # default"), "{shown}");
    let again = given(&shown).load();
    assert_eq!(again.config.issuers[0].name, "h");
    assert_eq!(again.config.stores["my lake"].url, "s3://l/");
}

#[test]
fn the_documentation_is_up_to_date() {
    assert_eq!(show::undocumented(), Vec::<String>::new());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("LAZARET_UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, document()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == document(), "docs/configuration.md is stale; LAZARET_UPDATE_DOCS=1 cargo test --workspace --lib config");
}

#[test]
fn what_kubernetes_says_of_a_service_is_not_a_key() {
    let told = [
        ("LAZARET_SERVICE_HOST", "10.0.0.7"),
        ("LAZARET_SERVICE_PORT", "32010"),
        ("LAZARET_SERVICE_PORT_FLIGHT", "32010"),
        ("LAZARET_PORT", "tcp://10.0.0.7:32010"),
        ("LAZARET_PORT_32010_TCP", "tcp://10.0.0.7:32010"),
        ("LAZARET_PORT_32010_TCP_PROTO", "tcp"),
        ("LAZARET_PORT_32010_TCP_PORT", "32010"),
        ("LAZARET_PORT_32010_TCP_ADDR", "10.0.0.7"),
        ("LAZARET_ADMIN_PORT", "tcp://10.0.0.8:32011"),
    ];
    let variables = |told: &[(&str, &str)]| told.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    assert!(load(&Sources { variables: variables(&told), ..Sources::default() }).is_ok());
    for mistake in [("LAZARET_PORT", "32010"), ("LAZARET_ADMIN_PORT", "32011"), ("LAZARET_PORT_A_TCP", "x")] {
        assert!(load(&Sources { variables: variables(&[mistake]), ..Sources::default() }).is_err(), "{mistake:?}");
    }
}
