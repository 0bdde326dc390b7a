#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lazaret_auth::{MaskAction, PolicyCommand, PolicyKind, Privilege, SystemPrivilege};
use lazaret_catalog::meta::TableFormat;

use super::statement::{
    Expiry, ExplainFormat, KillTarget, MaskUsing, ObjectRef, PrincipalRef, RelationKind, RoleChoice, Show, ShowGrants, UserChange,
};
use super::{DEFAULT_STATEMENT_BYTES, Statement, WORKER_STACK_BYTES, redact, split};
use crate::error::{Error, ErrorKind};

fn parse(text: &str) -> Result<Statement, Error> {
    super::parse(text, DEFAULT_STATEMENT_BYTES)
}

/// `kind: message at line l, column c`
fn error_of(text: &str) -> String {
    match parse(text) {
        Ok(statement) => format!("parsed: {statement:?}"),
        Err(error) => {
            assert!(error.position.is_some(), "no position for {text}: {error}");
            format!("{:?}: {error}", error.kind)
        }
    }
}

/// A statement and the error it must end in.
fn assert_errors(cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(text, expected)| error_of(text) != *expected)
        .map(|(text, expected)| format!("{text}\n  expected {expected}\n  got      {}", error_of(text)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn syntax_errors_name_the_token_and_its_place() {
    assert_errors(&[
        ("", "Invalid: the statement is empty at line 1, column 1"),
        ("  -- only a comment\n ;", "Invalid: the statement is empty at line 1, column 1"),
        ("FROBNICATE t", "Invalid: syntax error: expected a statement, found \"FROBNICATE\" at line 1, column 1"),
        ("42", "Invalid: syntax error: expected a statement, found \"42\" at line 1, column 1"),
        ("SELECT 1; SELECT 2", "Invalid: one statement at a time at line 1, column 11"),
        ("SELECT * FORM t", "Invalid: syntax error: expected the end of the statement, found \"FORM\" at line 1, column 10"),
        ("SELECT a FROM\n  t WHERE", "Invalid: syntax error: expected an expression, found the end of the statement at line 2, column 10"),
        ("SELECT a,\nFROM t", "Invalid: syntax error: expected an expression, found \"FROM\" at line 2, column 1"),
        ("SELECT (1", "Invalid: syntax error: expected ), found the end of the statement at line 1, column 10"),
        ("SELECT 1)", "Invalid: syntax error: expected the end of the statement, found \")\" at line 1, column 9"),
        ("SELECT 'abc", "Invalid: syntax error: unterminated string literal at line 1, column 8"),
        ("SELECT \"abc", "Invalid: syntax error: expected close delimiter '\"' before EOF. at line 1, column 8"),
        ("SELECT /* abc", "Invalid: syntax error: unexpected EOF while in a multi-line comment at line 1, column 14"),
        ("SELECT FROM t", "Invalid: syntax error: expected an expression, found \"FROM\" at line 1, column 8"),
        ("SELECT 1 WHERE", "Invalid: syntax error: expected an expression, found the end of the statement at line 1, column 15"),
        ("SELECT * FROM a JOIN b", "Invalid: syntax error: JOIN needs ON or USING at line 1, column 17"),
        ("SELECT * FROM 'file.parquet'", "Invalid: syntax error: expected a table, found 'file.parquet' at line 1, column 15"),
        ("SELECT 5 !", "Invalid: syntax error: unexpected \"!\" at line 1, column 10"),
        (
            "WITH a AS (SELECT 1)",
            "Invalid: syntax error: expected SELECT, VALUES, or a subquery in the query body, found the end of the statement at line 1, column 21",
        ),
        (
            "CREATE",
            "Invalid: syntax error: expected SCHEMA, TABLE, EXTERNAL TABLE, VIEW, USER, ROLE, TOKEN, POLICY or MASKING POLICY, found the end of the statement at line 1, column 7",
        ),
        (
            "CREATE SCHMEA s",
            "Invalid: syntax error: expected SCHEMA, TABLE, EXTERNAL TABLE, VIEW, USER, ROLE, TOKEN, POLICY or MASKING POLICY, found \"SCHMEA\" at line 1, column 8",
        ),
        (
            "CREATE OR REPLACE SCHEMA s",
            "Invalid: syntax error: expected TABLE, VIEW, POLICY or MASKING POLICY, found \"SCHEMA\" at line 1, column 19",
        ),
        ("CREATE SCHEMA IF NOT EXSITS s", "Invalid: syntax error: expected EXISTS, found \"EXSITS\" at line 1, column 22"),
        ("CREATE SCHEMA", "Invalid: syntax error: expected a schema, found the end of the statement at line 1, column 14"),
        ("CREATE SCHEMA a.b.c.d", "Invalid: a name has at most three parts: catalog.schema.table at line 1, column 21"),
        (
            "CREATE SCHEMA s AUTHORIZATION ada",
            "Invalid: syntax error: expected the end of the statement, found \"AUTHORIZATION\" at line 1, column 17",
        ),
        ("CREATE SCHEMA select", "Invalid: syntax error: expected a schema, found \"select\" at line 1, column 15"),
        ("CREATE SCHEMA \"\"", "Invalid: a name cannot be empty at line 1, column 15"),
        ("CREATE SCHEMA \"a\tb\"", "Invalid: a name cannot hold control characters at line 1, column 15"),
        ("DROP SCHEMA s CASCDE", "Invalid: syntax error: expected the end of the statement, found \"CASCDE\" at line 1, column 15"),
        ("DROP SCHEMA IF s", "Invalid: syntax error: expected EXISTS, found \"s\" at line 1, column 16"),
        (
            "DROP INDEX i",
            "Invalid: syntax error: expected SCHEMA, TABLE, VIEW, USER, ROLE, TOKEN, POLICY or MASKING POLICY, found \"INDEX\" at line 1, column 6",
        ),
        (
            "CREATE EXTERNAL t",
            "Invalid: syntax error: expected SCHEMA, TABLE, EXTERNAL TABLE, VIEW, USER, ROLE, TOKEN, POLICY or MASKING POLICY, found \"EXTERNAL\" at line 1, column 8",
        ),
        ("CREATE EXTERNAL TABLE t LOCATION 'x'", "Invalid: syntax error: expected STORED, found \"LOCATION\" at line 1, column 25"),
        (
            "CREATE EXTERNAL TABLE t STORED AS ORC LOCATION 'x'",
            "Invalid: syntax error: expected DELTA, ICEBERG, PARQUET, CSV or JSON, found \"ORC\" at line 1, column 35",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION \"x\"",
            "Invalid: syntax error: expected the location, between single quotes, found \"x\" at line 1, column 48",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x' OPTIONS ('a' 'b',)",
            "Invalid: syntax error: expected an option, found \")\" at line 1, column 69",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x' OPTIONS ('a' 'b', 'A' 'c')",
            "Invalid: option \"a\" is given twice at line 1, column 70",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x' WITH HEADER ROW",
            "Invalid: syntax error: expected the end of the statement, found \"WITH\" at line 1, column 52",
        ),
        ("CREATE TABLE t", "Invalid: syntax error: expected AS, found the end of the statement at line 1, column 15"),
        (
            "CREATE OR REPLACE TABLE IF NOT EXISTS t AS SELECT 1",
            "Invalid: OR REPLACE and IF NOT EXISTS exclude each other at line 1, column 25",
        ),
        (
            "CREATE TABLE t USING PARQUET AS SELECT 1",
            "Invalid: syntax error: expected DELTA or ICEBERG, found \"PARQUET\" at line 1, column 22",
        ),
        ("CREATE TABLE t AS DELETE", "Invalid: syntax error: expected a query, found \"DELETE\" at line 1, column 19"),
        ("CREATE VIEW v", "Invalid: syntax error: expected AS, found the end of the statement at line 1, column 14"),
        ("CREATE VIEW v AS SELECT $1", "Invalid: a parameter can stand in a query only at line 1, column 25"),
        ("CREATE VIEW v AS SELECT 1; DROP TABLE t", "Invalid: one statement at a time at line 1, column 28"),
        ("CREATE USER", "Invalid: syntax error: expected a user, found the end of the statement at line 1, column 12"),
        (
            "CREATE USER u PASSWORT 'geheim'",
            "Invalid: syntax error: expected the end of the statement, found \"PASSWORT\" at line 1, column 15",
        ),
        ("CREATE USER u PASSWORD \"geheim\"", "Invalid: syntax error: expected the password, between single quotes at line 1, column 24"),
        (
            "ALTER USER u LOCK",
            "Invalid: syntax error: expected PASSWORD, ENABLE, DISABLE or SET CERTIFICATE SUBJECT, found \"LOCK\" at line 1, column 14",
        ),
        (
            "ALTER USER u SET CERTIFICATE SUBJECT",
            "Invalid: syntax error: expected a subject, between single quotes, or NULL, found the end of the statement at line 1, column 37",
        ),
        (
            "ALTER USER u SET CERTIFICATE SUBJECT 'etl'",
            "Invalid: a certificate's subject is written as CN=name,O=organisation,C=country (RFC 4514) at line 1, column 38",
        ),
        (
            "ALTER USER u SET CERTIFICATE SUBJECT 'KN=etl'",
            "Invalid: \"KN\" is no attribute of a certificate's subject; those without a name are written as their OID at line 1, column 38",
        ),
        ("CREATE TOKEN n USER u", "Invalid: syntax error: expected FOR, found \"USER\" at line 1, column 16"),
        ("CREATE TOKEN n FOR USER u", "Invalid: syntax error: expected EXPIRES, found the end of the statement at line 1, column 26"),
        (
            "CREATE TOKEN n FOR USER u EXPIRES",
            "Invalid: syntax error: expected IN, or a timestamp between single quotes, found the end of the statement at line 1, column 34",
        ),
        (
            "CREATE TOKEN n FOR USER u EXPIRES NEVER",
            "Invalid: syntax error: expected IN, or a timestamp between single quotes, found \"NEVER\" at line 1, column 35",
        ),
        (
            "CREATE TOKEN n FOR USER u EXPIRES 'soon'",
            "Invalid: a token expires at a timestamp, such as '2027-01-31T00:00:00Z' at line 1, column 35",
        ),
        (
            "CREATE TOKEN n FOR USER u EXPIRES '1900-01-01'",
            "Invalid: a token expires at a timestamp, such as '2027-01-31T00:00:00Z' at line 1, column 35",
        ),
        (
            "CREATE TOKEN n FOR USER u EXPIRES IN x DAYS",
            "Invalid: syntax error: expected a number of days, found \"x\" at line 1, column 38",
        ),
        ("CREATE TOKEN n FOR USER u EXPIRES IN 0 DAYS", "Invalid: a token lasts from 1 to 36500 days at line 1, column 38"),
        ("CREATE TOKEN n FOR USER u EXPIRES IN 1.5 DAYS", "Invalid: a token lasts from 1 to 36500 days at line 1, column 38"),
        ("CREATE TOKEN n FOR USER u EXPIRES IN 40000 DAYS", "Invalid: a token lasts from 1 to 36500 days at line 1, column 38"),
        ("CREATE TOKEN n FOR USER u EXPIRES IN 3 WEEKS", "Invalid: syntax error: expected DAYS, found \"WEEKS\" at line 1, column 40"),
        (
            "CREATE TOKEN n FOR USER u EXPIRES IN 3 DAYS NOW",
            "Invalid: syntax error: expected the end of the statement, found \"NOW\" at line 1, column 45",
        ),
        ("DROP TOKEN n", "Invalid: syntax error: expected FOR, found the end of the statement at line 1, column 13"),
        ("SHOW TOKENS OF u", "Invalid: syntax error: expected the end of the statement, found \"OF\" at line 1, column 13"),
        ("SET ROLE", "Invalid: syntax error: expected a role, NONE or ALL, found the end of the statement at line 1, column 9"),
        ("SET ROLE = r", "Invalid: syntax error: expected a role, NONE or ALL, found \"=\" at line 1, column 10"),
        ("SET ROLE r, s", "Invalid: syntax error: expected the end of the statement, found \",\" at line 1, column 11"),
        (
            "ALTER VIEW v OWNER u",
            "Invalid: syntax error: expected ENABLE or DISABLE ROW LEVEL SECURITY, or OWNER TO, found \"OWNER\" at line 1, column 14",
        ),
        ("ALTER USER u PASSWORD ?", "Invalid: syntax error: expected the password, between single quotes at line 1, column 23"),
        ("ALTER ELEPHANT e", "Invalid: syntax error: expected TABLE, VIEW or USER, found \"ELEPHANT\" at line 1, column 7"),
        ("ALTER TABLE t ENABLE ROW SECURITY", "Invalid: syntax error: expected LEVEL, found \"SECURITY\" at line 1, column 26"),
        (
            "ALTER TABLE t FORCE ROW LEVEL SECURITY",
            "Invalid: syntax error: expected ENABLE or DISABLE ROW LEVEL SECURITY, or OWNER TO, found \"FORCE\" at line 1, column 15",
        ),
        ("GRANT ROLE r TO ada", "Invalid: syntax error: expected USER, ROLE or GROUP, found \"ada\" at line 1, column 17"),
        ("GRANT ROLE r FROM USER ada", "Invalid: syntax error: expected TO, found \"FROM\" at line 1, column 14"),
        ("GRANT SELCT ON TABLE t TO USER u", "Invalid: syntax error: expected a privilege, found \"SELCT\" at line 1, column 7"),
        (
            "GRANT SELECT ON t TO USER u",
            "Invalid: syntax error: expected CATALOG, SCHEMA, TABLE, VIEW or SYSTEM, found \"t\" at line 1, column 17",
        ),
        ("GRANT SELECT ON TABLE t TO ALL", "Invalid: syntax error: expected USER, ROLE or GROUP, found \"ALL\" at line 1, column 28"),
        (
            "GRANT SELECT ON TABLE t TO GROUP g",
            "Invalid: syntax error: expected a group, between single quotes, found \"g\" at line 1, column 34",
        ),
        (
            "GRANT SELECT ON TABLE t TO GROUP ''",
            "Invalid: a group's name is not empty and holds no control characters at line 1, column 34",
        ),
        (
            "GRANT SELECT ON TABLE t TO USER u WITH ADMIN OPTION",
            "Invalid: syntax error: expected the end of the statement, found \"WITH\" at line 1, column 35",
        ),
        ("GRANT SELECT ON SYSTEM TO USER u", "Invalid: there is no privilege SELECT ON SYSTEM at line 1, column 7"),
        ("GRANT READ AUDIT ON TABLE t TO USER u", "Invalid: privilege READ AUDIT is ON SYSTEM only at line 1, column 7"),
        ("GRANT CREATE ON TABLE t TO USER u", "Invalid: privilege CREATE is ON CATALOG or ON SCHEMA only at line 1, column 7"),
        ("GRANT SELECT (a) ON SCHEMA s TO USER u", "Invalid: SELECT on columns is ON TABLE or ON VIEW only at line 1, column 7"),
        ("GRANT SELECT () ON TABLE t TO USER u", "Invalid: syntax error: expected a column, found \")\" at line 1, column 15"),
        ("GRANT INSERT (a) ON TABLE t TO USER u", "Invalid: syntax error: expected ON, found \"(\" at line 1, column 14"),
        ("REVOKE SELECT ON TABLE t TO USER u", "Invalid: syntax error: expected FROM, found \"TO\" at line 1, column 26"),
        (
            "REVOKE GRANT OPTION SELECT ON TABLE t FROM USER u",
            "Invalid: syntax error: expected a privilege, found \"GRANT\" at line 1, column 8",
        ),
        (
            "CREATE POLICY p ON t TO ALL USING (true)",
            "Invalid: syntax error: expected TABLE, VIEW, SCHEMA or CATALOG, found \"t\" at line 1, column 20",
        ),
        (
            "CREATE POLICY p ON SYSTEM TO ALL USING (true)",
            "Invalid: syntax error: expected TABLE, VIEW, SCHEMA or CATALOG, found \"SYSTEM\" at line 1, column 20",
        ),
        ("CREATE POLICY p ON TABLE t USING (true)", "Invalid: syntax error: expected TO, found \"USING\" at line 1, column 28"),
        (
            "CREATE POLICY p ON TABLE t TO ALL",
            "Invalid: syntax error: expected USING or WITH CHECK, found the end of the statement at line 1, column 34",
        ),
        (
            "CREATE POLICY p ON TABLE t TO PUBLIC USING (true)",
            "Invalid: syntax error: expected USER, ROLE or GROUP, found \"PUBLIC\" at line 1, column 31",
        ),
        (
            "CREATE POLICY p ON TABLE t AS PERMISIVE TO ALL USING (true)",
            "Invalid: syntax error: expected PERMISSIVE or RESTRICTIVE, found \"PERMISIVE\" at line 1, column 31",
        ),
        (
            "CREATE POLICY p ON TABLE t FOR TRUNCATE TO ALL USING (true)",
            "Invalid: syntax error: expected ALL, SELECT, INSERT, UPDATE or DELETE, found \"TRUNCATE\" at line 1, column 32",
        ),
        (
            "CREATE POLICY p ON TABLE t TO ALL EXCEPT ALL USING (true)",
            "Invalid: syntax error: expected USER, ROLE or GROUP, found \"ALL\" at line 1, column 42",
        ),
        ("CREATE POLICY p ON TABLE t TO ALL USING true", "Invalid: syntax error: expected \"(\", found \"true\" at line 1, column 41"),
        ("CREATE POLICY p ON TABLE t TO ALL USING ()", "Invalid: syntax error: expected an expression, found \")\" at line 1, column 42"),
        (
            "CREATE POLICY p ON TABLE t TO ALL USING (a = )",
            "Invalid: syntax error: expected an expression, found \")\" at line 1, column 46",
        ),
        ("CREATE POLICY p ON TABLE t TO ALL USING (a b)", "Invalid: syntax error: expected \")\", found \"b\" at line 1, column 44"),
        (
            "CREATE POLICY p ON TABLE t TO ALL USING (true",
            "Invalid: syntax error: expected \")\", found the end of the statement at line 1, column 46",
        ),
        ("CREATE POLICY p ON TABLE t TO ALL USING (a = $1)", "Invalid: a parameter can stand in a query only at line 1, column 46"),
        (
            "CREATE POLICY p ON TABLE t FOR SELECT TO ALL WITH CHECK (true)",
            "Invalid: a policy FOR SELECT or DELETE has USING only at line 1, column 46",
        ),
        (
            "CREATE POLICY p ON TABLE t FOR INSERT TO ALL USING (true)",
            "Invalid: a policy FOR INSERT has WITH CHECK only at line 1, column 46",
        ),
        (
            "CREATE POLICY p ON TABLE t TO ALL USING (true) COMMENT hello",
            "Invalid: syntax error: expected a comment, between single quotes, found \"hello\" at line 1, column 56",
        ),
        (
            "CREATE POLICY p ON TABLE t TO ALL USING (true) USING (false)",
            "Invalid: syntax error: expected the end of the statement, found \"USING\" at line 1, column 48",
        ),
        ("DROP POLICY p", "Invalid: syntax error: expected ON, found the end of the statement at line 1, column 14"),
        ("DESCRIBE", "Invalid: syntax error: expected a table or view, found the end of the statement at line 1, column 9"),
        ("DESCRIBE t u", "Invalid: syntax error: expected the end of the statement, found \"u\" at line 1, column 12"),
        (
            "SHOW",
            "Invalid: syntax error: expected CATALOGS, SCHEMAS, TABLES, COLUMNS, CREATE TABLE, USERS, TOKENS, ROLES, GRANTS, POLICIES, MASKING POLICIES, EFFECTIVE POLICIES, EMERGENCY ACCESS, SETTINGS or WARNINGS, found the end of the statement at line 1, column 5",
        ),
        ("SHOW COLUMNS t", "Invalid: syntax error: expected FROM, found \"t\" at line 1, column 14"),
        ("SHOW TABLES LIKE 'a%'", "Invalid: syntax error: expected the end of the statement, found \"LIKE\" at line 1, column 13"),
        ("USE a.b.c", "Invalid: syntax error: expected the end of the statement, found \".\" at line 1, column 8"),
        ("SET a", "Invalid: syntax error: expected \"=\", found the end of the statement at line 1, column 6"),
        ("SET a = 1, 2", "Invalid: syntax error: expected the end of the statement, found \",\" at line 1, column 10"),
        ("SET a = -b", "Invalid: syntax error: expected a number, found \"b\" at line 1, column 10"),
        ("EXPLAIN", "Invalid: syntax error: expected a query, found the end of the statement at line 1, column 8"),
        ("EXPLAIN DROP TABLE t", "Invalid: syntax error: expected a query, found \"DROP\" at line 1, column 9"),
        (
            "EXPLAIN FORMAT XML SELECT 1",
            "Invalid: syntax error: expected INDENT, TREE, PGJSON or GRAPHVIZ, found \"XML\" at line 1, column 16",
        ),
        ("EXPLAIN ANALYZE ANALYZE SELECT 1", "Invalid: syntax error: expected a query, found \"ANALYZE\" at line 1, column 17"),
    ]);
}

#[test]
fn grammar_that_is_not_built_is_refused_by_name() {
    let mut cases: Vec<(String, String)> = [
        ("CREATE CATALOG c USING ICEBERG_REST", "CREATE CATALOG", 1),
        ("drop catalog c", "DROP CATALOG", 1),
        ("CREATE TABLE t (a INT) AS SELECT 1", "CREATE TABLE with columns AS", 24),
        ("CREATE TABLE t (a INT DEFAULT 3)", "DEFAULT of a column", 23),
        ("CREATE TABLE t (a INT NOT NULL PRIMARY KEY)", "PRIMARY of a column", 32),
        ("CREATE TABLE t USING ICEBERG AS SELECT 1", "CREATE TABLE … USING ICEBERG", 22),
        ("CREATE TABLE t LOCATION 'x' AS SELECT 1", "CREATE TABLE … LOCATION", 16),
        ("CREATE TABLE t WITH (a = 'b') AS SELECT 1", "CREATE TABLE … WITH", 16),
        ("CREATE EXTERNAL TABLE t (a INT) STORED AS CSV LOCATION 'x'", "columns of an external table", 25),
        ("CREATE VIEW v (a) AS SELECT 1", "CREATE VIEW with column names", 15),
        ("COMMENT ON TABLE t IS 'x'", "COMMENT ON", 1),
        ("ALTER TABLE t ADD COLUMN a INT", "ALTER TABLE … ADD COLUMN", 15),
        ("INSERT OVERWRITE t VALUES (1)", "INSERT OVERWRITE", 1),
        ("INSERT INTO t DEFAULT VALUES", "INSERT INTO … DEFAULT VALUES", 15),
        ("INSERT INTO t AS u VALUES (1)", "INSERT INTO … AS", 15),
        ("UPDATE t SET a = 1", "UPDATE", 1),
        ("DELETE FROM t", "DELETE FROM", 1),
        ("MERGE INTO t USING u ON a = b WHEN MATCHED THEN DELETE", "MERGE INTO", 1),
        ("TRUNCATE TABLE t", "TRUNCATE", 1),
        ("COPY t FROM 'x'", "COPY", 1),
        ("OPTIMIZE t", "OPTIMIZE", 1),
        ("VACUUM t RETAIN 7 HOURS", "VACUUM", 1),
        ("RESTORE TABLE t TO VERSION AS OF 3", "RESTORE TABLE", 1),
        ("DESCRIBE HISTORY t", "DESCRIBE HISTORY", 1),
        ("EXECUTE prepared (1)", "EXECUTE", 1),
        ("BEGIN", "BEGIN", 1),
    ]
    .into_iter()
    .map(|(text, what, column)| (text.to_owned(), format!("Unsupported: not supported yet: {what} at line 1, column {column}")))
    .collect();
    cases.push(("\n  REFRESH TABLE t".to_owned(), "Unsupported: not supported yet: REFRESH at line 2, column 3".to_owned()));
    let cases: Vec<(&str, &str)> = cases.iter().map(|(text, expected)| (text.as_str(), expected.as_str())).collect();
    assert_errors(&cases);
}

#[test]
fn somebody_else_is_written_with_groups_and_claims() {
    let sql = r#"EXECUTE AS USER "hospital:ada" GROUPS ('nurses', 'hospital:on call') CLAIMS '{"region": "PT-11", "n": 1}' SELECT $1"#;
    let Statement::ExecuteAs(execute) = parse(sql).unwrap() else { panic!("no EXECUTE AS") };
    assert_eq!(execute.subject.user.0.as_str(), "hospital:ada");
    assert_eq!(execute.subject.groups.iter().map(|(group, _)| group.as_str()).collect::<Vec<_>>(), ["nurses", "hospital:on call"]);
    assert_eq!(execute.subject.claims.as_ref().unwrap()["region"], "PT-11");
    assert!(matches!(&execute.statement, Statement::Query(query) if query.text == "SELECT $1" && query.parameters == 1));
    for query in ["SELECT 1", "(SELECT 1)", "WITH a AS (SELECT 1) SELECT * FROM a", "VALUES (1)", "EXPLAIN ANALYZE SELECT 1"] {
        assert!(matches!(parse(&format!("EXECUTE AS USER u {query}")).unwrap(), Statement::ExecuteAs(_)), "{query}");
    }
    for (sql, own) in [("EXPLAIN POLICY SELECT 1", true), ("EXPLAIN POLICY FOR USER u GROUPS ('g') SELECT 1", false)] {
        assert!(matches!(parse(sql).unwrap(), Statement::ExplainPolicy(explain) if explain.subject.is_none() == own), "{sql}");
    }
    for sql in [
        "SHOW EFFECTIVE POLICIES ON a.b.t",
        "SHOW EFFECTIVE POLICIES ON VIEW v FOR USER u GROUPS ('g')",
        "show effective policies on t for role r",
    ] {
        assert!(matches!(parse(sql).unwrap(), Statement::Show(Show::EffectivePolicies { .. })), "{sql}");
    }
}

/// Nobody changes anything in somebody else's name, nor in the name of one whom that one acts for.
#[test]
fn what_may_be_done_for_somebody_else_is_a_query() {
    let expected = |what: &str, column: usize| format!("Invalid: syntax error: expected {what} at line 1, column {column}");
    let mut cases: Vec<(String, String)> = vec![
        (
            "EXECUTE AS USER u EXECUTE AS USER v SELECT 1".into(),
            "Invalid: EXECUTE AS cannot stand inside another at line 1, column 19".into(),
        ),
        (
            "EXECUTE AS USER u EXPLAIN POLICY SELECT 1".into(),
            "Invalid: EXPLAIN POLICY has a FOR USER of its own at line 1, column 19".into(),
        ),
        ("EXECUTE AS USER u GROUPS () SELECT 1".into(), expected("a group, between single quotes, found \")\"", 27)),
        ("EXECUTE AS USER u CLAIMS '[1]' SELECT 1".into(), "Invalid: the claims are not a JSON object at line 1, column 26".into()),
        ("EXECUTE AS USER u CLAIMS '{\"a\":' SELECT 1".into(), "Invalid: the claims are not a JSON object at line 1, column 26".into()),
        ("EXECUTE AS ROLE r SELECT 1".into(), "Unsupported: not supported yet: EXECUTE at line 1, column 1".into()),
        ("EXECUTE AS USER u SELECT 1; DROP TABLE t".into(), "Invalid: one statement at a time at line 1, column 29".into()),
        ("EXPLAIN POLICY FOR ROLE r SELECT 1".into(), expected("USER, found \"ROLE\"", 20)),
        ("EXPLAIN POLICY DROP TABLE t".into(), expected("a query, found \"DROP\"", 16)),
        ("EXPLAIN POLICY SELECT $1".into(), "Invalid: a parameter can stand in a query only at line 1, column 23".into()),
        ("SHOW EFFECTIVE POLICIES".into(), expected("ON, found the end of the statement", 24)),
        ("SHOW EFFECTIVE POLICIES ON SCHEMA s".into(), expected("a table or view, found \"SCHEMA\"", 28)),
        ("SHOW EFFECTIVE POLICIES ON t FOR GROUP 'g'".into(), expected("USER or ROLE, found \"GROUP\"", 34)),
    ];
    for change in ["INSERT INTO t VALUES (1)", "CREATE TABLE t AS SELECT 1", "DROP TABLE t", "SET a = 1", "GRANT ALL ON TABLE t TO USER u"]
    {
        let word = change.split(' ').next().unwrap();
        cases.push((format!("EXECUTE AS USER u {change}"), expected(&format!("a query or EXPLAIN, found \"{word}\""), 19)));
    }
    let cases: Vec<(&str, &str)> = cases.iter().map(|(text, expected)| (text.as_str(), expected.as_str())).collect();
    assert_errors(&cases);
}

/// What DataFusion's planner would pass over in silence.
#[test]
fn nothing_in_a_query_is_ignored() {
    let mut wrong = Vec::new();
    for (text, what, column) in [
        ("SELECT * FROM t VERSION AS OF 12", "VERSION AS OF", 17),
        ("SELECT * FROM t TIMESTAMP AS OF '2026-03-01'", "TIMESTAMP AS OF", 17),
        ("SELECT * FROM t FOR SYSTEM_TIME AS OF '2026-03-01'", "FOR SYSTEM_TIME AS OF", 17),
        ("SELECT * FROM t TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE", 17),
        ("SELECT * FROM (SELECT 1) TABLESAMPLE (10 ROWS)", "TABLESAMPLE", 26),
        ("SELECT a INTO b FROM t", "SELECT INTO", 10),
        ("SELECT 1 FOR UPDATE", "FOR UPDATE and FOR SHARE", 10),
        ("SELECT * FROM t FOR SHARE", "FOR UPDATE and FOR SHARE", 17),
        ("SELECT 1 FOR SHARE", "FOR UPDATE and FOR SHARE", 10),
        ("SELECT 1 LIMIT 5 FETCH FIRST 3 ROWS ONLY", "FETCH with LIMIT, PERCENT or WITH TIES", 18),
        ("SELECT 1 FETCH FIRST 3 PERCENT ROWS ONLY", "FETCH with LIMIT, PERCENT or WITH TIES", 10),
        ("SELECT 1 FETCH FIRST 3 ROWS WITH TIES", "FETCH with LIMIT, PERCENT or WITH TIES", 10),
        ("SELECT TOP 3 a FROM t", "TOP", 8),
        ("SELECT a FROM t SORT BY a", "SORT BY", 17),
        ("SELECT a FROM t DISTRIBUTE BY a", "DISTRIBUTE BY", 17),
        ("SELECT a FROM t CLUSTER BY a", "CLUSTER BY", 17),
        ("SELECT 1 UNION SELECT 2 ORDER BY ALL", "ORDER BY ALL of a set operation", 25),
        ("SELECT 1 INTERSECT ALL SELECT 1", "INTERSECT ALL", 10),
        ("SELECT 1 EXCEPT ALL SELECT 1", "EXCEPT ALL", 10),
        ("WITH a AS MATERIALIZED (SELECT 1) SELECT * FROM a", "MATERIALIZED", 11),
        ("WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a LIMIT 3) SELECT * FROM a", "LIMIT in a recursive query", 66),
        ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", "DELETE in a query", 12),
        ("SELECT * FROM a, LATERAL VIEW", "LATERAL VIEW", 18),
        ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "WITH ORDINALITY", 37),
        ("SELECT * FROM t$files", "\"t$files\"", 15),
        ("SELECT * FROM c.s.t$snapshots", "\"t$snapshots\"", 19),
        ("SELECT * FROM table_changes('t', 1, 2)", "table_changes", 15),
        ("SELECT * FROM generate_series(start => 1)", "named arguments of a table function", 15),
        ("SELECT ARRAY(SELECT 1)", "ARRAY(subquery)", 8),
        ("SELECT sum(a) OVER (w ORDER BY b) FROM t WINDOW w AS (PARTITION BY c)", "a window that extends another", 21),
        ("SELECT * FROM generate_series(1, 2) AS g (a INT)", "a type in a column alias", 43),
        ("SELECT * FROM TABLE(f(1))", "TABLE(…)", 15),
        ("SELECT 1 WHERE a IN (SELECT 1 FOR UPDATE)", "FOR UPDATE and FOR SHARE", 31),
        ("CREATE VIEW v AS SELECT * FROM t VERSION AS OF 12", "VERSION AS OF", 34),
        ("CREATE POLICY p ON TABLE t TO ALL USING (EXISTS (SELECT 1 FROM m TABLESAMPLE (1)))", "TABLESAMPLE", 66),
    ] {
        let expected = format!("Unsupported: not supported yet: {what} at line 1, column {column}");
        let got = error_of(text);
        if got != expected && !(what == "LATERAL VIEW" && got.starts_with("Invalid: syntax error")) {
            wrong.push(format!("{text}\n  expected {expected}\n  got      {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn queries_parse() {
    for text in [
        "SELECT 1",
        "select 1;",
        "SELECT 1 ; ; -- done",
        "VALUES (1, 'a'), (2, 'b')",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
        "WITH a AS (SELECT 1 AS x) SELECT * FROM a",
        "WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a WHERE n < 5) SELECT * FROM a",
        "SELECT a.b, count(*) FILTER (WHERE c > 1) FROM t AS a GROUP BY GROUPING SETS ((a.b), ()) HAVING count(*) > 1",
        "SELECT a FROM t GROUP BY ALL ORDER BY ALL LIMIT 5 OFFSET 2",
        "SELECT * EXCEPT (a), x[1], [1, 2], ARRAY[1, 2], {'a': 1} FROM t",
        "SELECT \"Quoted \"\"name\"\"\" FROM \"T\" WHERE a->>'b' = 'c'",
        "SELECT CASE WHEN a > -1 THEN 'x' ELSE E'\\n' END, a::text, CAST(b AS DECIMAL(10, 2)), DATE '2026-01-01', INTERVAL '1 day' FROM t",
        "SELECT row_number() OVER (PARTITION BY a ORDER BY b ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) FROM t QUALIFY 1 = 1",
        "SELECT * FROM a JOIN b USING (id) LEFT JOIN c ON a.x = c.x CROSS JOIN d NATURAL JOIN e",
        "SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.x = a.x) AS l",
        "SELECT a>-1, a=-1, a<-1, a<>-1, a||b, a%2, a IS NOT NULL, a BETWEEN 1 AND 2, a NOT IN (1, 2), a ILIKE 'x%', a ~ 'x' FROM t",
        "SELECT current_user, current_user(), session_user, has_role('r'), claim('region') FROM t",
        "SELECT a FROM t OFFSET 2 ROWS FETCH NEXT 5 ROWS ONLY",
        "SELECT extract(year FROM d), substring(a FROM 1 FOR 2), trim(BOTH ' ' FROM a), position('a' IN b) FROM t",
        "SELECT * FROM unnest([1, 2]) AS u (x)",
        "SELECT $$dollar; quoted$$, U&'\\0041', X'ff' /* a /* nested */ comment */",
        "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b DESC NULLS LAST",
    ] {
        match parse(text) {
            Ok(Statement::Query(_)) => {}
            other => panic!("{text}: {other:?}"),
        }
    }
}

fn query_text(text: &str) -> String {
    let Ok(Statement::Query(query)) = parse(text) else { panic!("{text}: {:?}", parse(text)) };
    query.ast.to_string()
}

#[test]
fn expressions_are_read_as_postgresql_reads_them() {
    let brackets = |text: &str| {
        let Statement::Query(query) = parse(&format!("SELECT {text}")).unwrap() else { panic!("not a query") };
        let datafusion::sql::sqlparser::ast::SetExpr::Select(select) = *query.ast.body else { panic!("not a select") };
        let datafusion::sql::sqlparser::ast::SelectItem::UnnamedExpr(expr) = select.projection[0].clone() else { panic!("an alias") };
        shape(&expr)
    };
    for (text, expected) in [
        ("a IS NOT DISTINCT FROM b OR c", "((a IS NOT DISTINCT FROM b) OR c)"),
        ("a IS DISTINCT FROM b AND c", "((a IS DISTINCT FROM b) AND c)"),
        ("a IS DISTINCT FROM b + 1 = c", "(a IS DISTINCT FROM ((b + 1) = c))"),
        ("NOT a IS NOT DISTINCT FROM b", "(NOT (a IS NOT DISTINCT FROM b))"),
        ("a OR b AND NOT c = d", "(a OR (b AND (NOT (c = d))))"),
        ("-2 ^ 2", "((- 2) ^ 2)"),
        ("- a * b", "((- a) * b)"),
        ("1 + 2 * 3 - 4", "((1 + (2 * 3)) - 4)"),
        ("a || b = c || d", "((a || b) = (c || d))"),
        ("a>-1", "(a > (- 1))"),
    ] {
        assert_eq!(brackets(text), expected, "{text}");
    }
}

/// An expression with all its brackets.
fn shape(expr: &datafusion::sql::sqlparser::ast::Expr) -> String {
    use datafusion::sql::sqlparser::ast::Expr;
    match expr {
        Expr::BinaryOp { left, op, right } => format!("({} {op} {})", shape(left), shape(right)),
        Expr::UnaryOp { op, expr } => format!("({op} {})", shape(expr)),
        Expr::IsDistinctFrom(left, right) => format!("({} IS DISTINCT FROM {})", shape(left), shape(right)),
        Expr::IsNotDistinctFrom(left, right) => format!("({} IS NOT DISTINCT FROM {})", shape(left), shape(right)),
        other => other.to_string(),
    }
}

#[test]
fn a_column_with_the_name_of_another_gets_its_own() {
    for (text, expected) in [
        ("SELECT a, b AS A, \"A\", t.a, 1 FROM t", "SELECT a, b AS \"a:1\", \"A\", t.a AS \"a:3\", 1 FROM t"),
        ("SELECT t.a, u.a FROM t, u", "SELECT t.a, u.a FROM t, u"),
        ("SELECT COUNT(*), count(*), -a, -(a) FROM t", "SELECT COUNT(*), count(*) AS \"count(*):1\", -a, -(a) AS \"- a:3\" FROM t"),
    ] {
        assert_eq!(query_text(text), expected);
    }
    let twice = parse("CREATE TABLE t AS SELECT 1 AS a, 2 AS a").unwrap_err();
    assert_eq!(twice.to_string(), "column \"a\" is there twice at line 1, column 39");
}

#[test]
fn placeholders_are_numbered() {
    for (text, expected, count) in [
        ("SELECT ?", "SELECT $1", 1),
        ("SELECT a FROM t WHERE a=? AND b>? -- what?", "SELECT a FROM t WHERE a = $1 AND b > $2", 2),
        ("SELECT '?', \"?\" FROM t WHERE a = ?", "SELECT '?', \"?\" FROM t WHERE a = $1", 1),
        ("SELECT $2, $1, $2 + 1", "SELECT $2, $1, $2 + 1", 2),
        ("SELECT 1", "SELECT 1", 0),
        ("SELECT /* ? */ $$?$$", "SELECT $$?$$", 0),
        ("SELECT * FROM t LIMIT ? OFFSET ?", "SELECT * FROM t LIMIT $1 OFFSET $2", 2),
    ] {
        assert_eq!(query_text(text), expected);
        assert_eq!(parse(text).unwrap().parameters(), count, "{text}");
    }
    assert_eq!(parse("EXPLAIN SELECT ? + ?").unwrap().parameters(), 2);
    assert_eq!(parse("CREATE TABLE t AS SELECT ? AS a").unwrap().parameters(), 1);
    assert_errors(&[
        ("SELECT ?, $1", "Invalid: parameters are written either as ? or as $1, not both at line 1, column 11"),
        ("SELECT $1, ?", "Invalid: parameters are written either as ? or as $1, not both at line 1, column 8"),
        ("SELECT $name", "Invalid: named parameter $name: write ? or $1 at line 1, column 8"),
        ("SELECT :name", "Invalid: named parameter :name: write ? or $1 at line 1, column 8"),
        ("SELECT ?1", "Invalid: named parameter ?1: write ? or $1 at line 1, column 8"),
        ("SELECT $0", "Invalid: parameters are numbered $1 to $65535 at line 1, column 8"),
        ("SELECT $65536", "Invalid: parameters are numbered $1 to $65535 at line 1, column 8"),
        ("SELECT $99999999999999999999", "Invalid: parameters are numbered $1 to $65535 at line 1, column 8"),
        ("SELECT $1, $3", "Invalid: parameter $2 is not used, but $3 is at line 1, column 12"),
        ("DROP TABLE t; SELECT ?", "Invalid: one statement at a time at line 1, column 15"),
        ("SET a = ?", "Invalid: syntax error: expected a value, found \"$1\" at line 1, column 9"),
    ]);
}

#[test]
fn our_statements_parse() {
    let name = |text: &str| match parse(&format!("DESCRIBE {text}")).unwrap() {
        Statement::Describe { name } => name,
        other => panic!("{other:?}"),
    };
    let shown = |text: &str| match parse(text).unwrap() {
        Statement::Show(show) => show,
        other => panic!("{other:?}"),
    };
    assert_eq!(name("C.S.\"T\"").to_string(), "c.s.T");
    assert_eq!(name("TABLE a.b").to_string(), "a.b");
    assert!(matches!(parse("CREATE SCHEMA IF NOT EXISTS c.s").unwrap(), Statement::CreateSchema { if_not_exists: true, .. }));
    assert!(matches!(parse("DROP SCHEMA IF EXISTS s CASCADE").unwrap(), Statement::DropSchema { if_exists: true, cascade: true, .. }));
    assert!(matches!(parse("DROP SCHEMA s RESTRICT").unwrap(), Statement::DropSchema { if_exists: false, cascade: false, .. }));
    assert!(matches!(parse("DENY SELECT (c) ON TABLE t TO ROLE r").unwrap(), Statement::Grant(grant) if grant.deny));
    assert!(matches!(parse("GRANT SELECT (c) ON TABLE t TO ROLE r").unwrap(), Statement::Grant(grant) if !grant.deny));
    assert!(matches!(parse("DROP TABLE t CASCADE").unwrap(), Statement::Drop { cascade: true, .. }));
    let drop = Statement::Drop { kind: RelationKind::View, name: name("v"), if_exists: true, cascade: false };
    assert_eq!(parse("DROP VIEW IF EXISTS v;").unwrap(), drop);

    let Statement::CreateExternalTable(table) =
        parse("create external table if not exists t stored as csv location 's3://lake/t' options ('Has_Header' 'true', delimiter = ';', csv.quote true)").unwrap()
    else {
        panic!("not an external table")
    };
    assert_eq!((table.format, table.location.as_str(), table.if_not_exists), (TableFormat::Csv, "s3://lake/t", true));
    let options: Vec<_> = table.options.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(options, [("csv.quote", "true"), ("delimiter", ";"), ("has_header", "true")]);

    let Statement::CreateTableAs(table) =
        parse("CREATE OR REPLACE TABLE c.s.t USING DELTA PARTITIONED BY (a, B) AS SELECT 1 AS a, 2 AS b ;").unwrap()
    else {
        panic!("not a table")
    };
    assert!(table.or_replace && !table.if_not_exists && table.format == TableFormat::Delta);
    assert_eq!(table.partitioned_by.iter().map(|ident| ident.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(table.query.text, "SELECT 1 AS a, 2 AS b");

    let Statement::CreateTableAs(table) = parse(
        "CREATE TABLE t (a BIGINT NOT NULL, b DECIMAL(10, 2), \"C\" TIMESTAMP WITH TIME ZONE NULL, d ARRAY<ARRAY<INT>>) PARTITIONED BY (a)",
    )
    .unwrap() else {
        panic!("not a table")
    };
    let columns: Vec<_> = table.columns.iter().map(|column| (column.name.as_str(), column.not_null)).collect();
    assert_eq!(columns, [("a", true), ("b", false), ("C", false), ("d", false)]);
    let select = "SELECT CAST(NULL AS BIGINT) AS \"a\", CAST(NULL AS DECIMAL(10,2)) AS \"b\", \
        CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS \"C\", CAST(NULL AS ARRAY<ARRAY<INT>>) AS \"d\" WHERE false";
    assert_eq!(table.query.ast.to_string(), select);

    let Statement::Insert(insert) = parse("INSERT INTO s.t (a, \"B\") VALUES (?, ?), (1, DEFAULT)").unwrap() else { panic!("no INSERT") };
    assert_eq!((insert.table.to_string().as_str(), insert.query.parameters), ("s.t", 2));
    let columns: Vec<_> = insert.columns.iter().flatten().map(|column| column.as_str()).collect();
    assert_eq!(columns, ["a", "B"]);
    for text in ["INSERT INTO t (SELECT 1)", "INSERT INTO t WITH w AS (SELECT 1) SELECT * FROM w", "INSERT INTO t ((VALUES (1)))"] {
        let Statement::Insert(insert) = parse(text).unwrap() else { panic!("{text}") };
        assert!(insert.columns.is_none(), "{text}");
    }
    for (text, error) in [
        ("INSERT t VALUES (1)", "Invalid: syntax error: expected INTO, found \"t\" at line 1, column 8"),
        ("INSERT INTO t", "Invalid: syntax error: expected VALUES or a query, found the end of the statement at line 1, column 14"),
        ("INSERT INTO t (a, b, a) VALUES (1)", "Invalid: column \"a\" is there twice at line 1, column 22"),
        ("INSERT INTO t () VALUES (1)", "Invalid: syntax error: expected a column, found \")\" at line 1, column 16"),
        (
            "INSERT INTO t (a) VALUES (1) RETURNING a",
            "Invalid: syntax error: expected the end of the statement, found \"RETURNING\" at line 1, column 30",
        ),
        ("CREATE TABLE t (a)", "Invalid: syntax error: expected a type, found \")\" at line 1, column 18"),
        ("CREATE TABLE t (a INT, a INT)", "Invalid: column \"a\" is there twice at line 1, column 24"),
        ("CREATE TABLE t (a NOTYPE)", "Invalid: type \"NOTYPE\" is not known at line 1, column 19"),
    ] {
        assert_eq!(error_of(text), error, "{text}");
    }

    let Statement::CreateView(view) = parse("CREATE VIEW v AS\n  SELECT 'ä' /* kept */ , b\n FROM t -- gone\n;").unwrap() else {
        panic!("not a view")
    };
    assert_eq!(view.query.text, "SELECT 'ä' /* kept */ , b\n FROM t");

    let Statement::Explain(explain) = parse("EXPLAIN ANALYZE VERBOSE FORMAT TREE SELECT 1").unwrap() else { panic!("not an explain") };
    assert_eq!((explain.analyze, explain.verbose, explain.format), (true, true, Some(ExplainFormat::Tree)));

    for (text, expected) in [
        ("SHOW CATALOGS", Show::Catalogs),
        ("SHOW SETTINGS", Show::Settings),
        ("SHOW WARNINGS", Show::Warnings),
        ("SHOW SCHEMAS", Show::Schemas(None)),
        ("SHOW TABLES", Show::Tables(None)),
        ("SHOW TABLES FROM c.s", Show::Tables(Some(name("c.s")))),
        ("SHOW COLUMNS FROM t", Show::Columns(name("t"))),
        ("SHOW CREATE TABLE t", Show::CreateTable(name("t"))),
        ("SHOW USERS", Show::Users),
        ("SHOW TOKENS", Show::Tokens(None)),
        ("SHOW ROLES", Show::Roles),
        ("SHOW GRANTS", Show::Grants(None)),
        ("SHOW GRANTS ON SYSTEM", Show::Grants(Some(ShowGrants::On(ObjectRef::System)))),
        ("SHOW GRANTS ON t", Show::Grants(Some(ShowGrants::On(ObjectRef::Relation(RelationKind::Table, name("t")))))),
        ("SHOW GRANTS ON SCHEMA s", Show::Grants(Some(ShowGrants::On(ObjectRef::Schema(name("s")))))),
        ("SHOW GRANTS TO GROUP 'g'", Show::Grants(Some(ShowGrants::To(PrincipalRef::Group("g".to_owned()))))),
        ("SHOW POLICIES", Show::Policies(None)),
        ("SHOW POLICIES ON VIEW v", Show::Policies(Some(ObjectRef::Relation(RelationKind::View, name("v"))))),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
    assert!(matches!(shown("SHOW GRANTS TO \"hospital:ada\""), Show::Grants(Some(ShowGrants::To(PrincipalRef::User(_))))));

    assert!(matches!(parse("USE c.s").unwrap(), Statement::Use { schema: Some(_), .. }));
    assert!(matches!(parse("USE c").unwrap(), Statement::Use { schema: None, .. }));
    for (text, expected) in [
        ("SET batch_size = 1024", ("batch_size", "1024")),
        ("SET a.b TO 'x y'", ("a.b", "x y")),
        ("SET a = -5", ("a", "-5")),
        ("SET a = ON", ("a", "on")),
        ("SET TIME ZONE 'UTC'", ("time_zone", "UTC")),
    ] {
        assert_eq!(parse(text).unwrap(), Statement::Set { name: expected.0.to_owned(), value: expected.1.to_owned() });
    }
    assert_eq!(parse("RESET ALL").unwrap(), Statement::Reset { name: None });
    assert_eq!(parse("RESET a").unwrap(), Statement::Reset { name: Some("a".to_owned()) });
    for (text, expected) in [("SET ROLE ALL", RoleChoice::All), ("set role none", RoleChoice::None), ("RESET ROLE", RoleChoice::All)] {
        assert_eq!(parse(text).unwrap(), Statement::SetRole(expected), "{text}");
    }
    for (text, name) in [("SET ROLE Nurse", "nurse"), ("SET ROLE \"none\"", "none"), ("SET ROLE \"ALL\"", "ALL")] {
        let Statement::SetRole(RoleChoice::Only(role)) = parse(text).unwrap() else { panic!("{text}") };
        assert_eq!(role.as_str(), name, "{text}");
    }
}

#[test]
fn access_statements_parse() {
    let Statement::CreateUser { name, password: Some(password), .. } = parse("CREATE USER Ada PASSWORD 'it''s'").unwrap() else {
        panic!("no password")
    };
    assert_eq!((name.as_str(), password.reveal(), format!("{password:?}").as_str()), ("ada", "it's", "***"));
    assert!(matches!(parse("CREATE USER IF NOT EXISTS u").unwrap(), Statement::CreateUser { if_not_exists: true, password: None, .. }));
    assert!(matches!(parse("ALTER USER u PASSWORD $$x$$").unwrap(), Statement::AlterUser { change: UserChange::Password(_), .. }));
    assert!(matches!(parse("ALTER USER u DISABLE").unwrap(), Statement::AlterUser { change: UserChange::Disable, .. }));
    assert!(matches!(parse("ALTER USER u ENABLE").unwrap(), Statement::AlterUser { change: UserChange::Enable, .. }));
    assert!(matches!(parse("DROP USER IF EXISTS u").unwrap(), Statement::DropUser { if_exists: true, .. }));
    let Statement::AlterUser { change: UserChange::CertificateSubject(Some(subject)), .. } =
        parse("ALTER USER u SET CERTIFICATE SUBJECT 'cn = etl, O=Hospital'").unwrap()
    else {
        panic!("no subject")
    };
    assert_eq!(subject.as_str(), "CN=etl,O=Hospital");
    let none = parse("ALTER USER u SET CERTIFICATE SUBJECT NULL").unwrap();
    assert!(matches!(none, Statement::AlterUser { change: UserChange::CertificateSubject(None), .. }));
    for (ends, at_s) in
        [("'2027-01-31T00:00:00Z'", 1_801_353_600), ("'2027-01-31'", 1_801_353_600), ("'2027-01-31 01:00:00+01:00'", 1_801_353_600)]
    {
        let Statement::CreateToken { expiry, .. } = parse(&format!("CREATE TOKEN n FOR USER u EXPIRES {ends}")).unwrap() else {
            panic!("{ends}")
        };
        assert!(matches!(expiry, Expiry::At(found, _) if found == at_s), "{ends}: {expiry:?}");
    }
    let Statement::CreateToken { name, user, expiry } = parse("CREATE TOKEN Nightly FOR USER etl EXPIRES IN 90 DAYS").unwrap() else {
        panic!("no token")
    };
    assert_eq!((name.as_str(), user.as_str(), expiry), ("nightly", "etl", Expiry::InDays(90)));
    assert!(matches!(parse("DROP TOKEN n FOR USER u").unwrap(), Statement::DropToken { .. }));
    assert!(matches!(parse("SHOW TOKENS FOR USER u").unwrap(), Statement::Show(Show::Tokens(Some(_)))));
    let owned = parse("ALTER VIEW v OWNER TO \"hospital:ada\"").unwrap();
    assert!(matches!(owned, Statement::SetOwner { kind: RelationKind::View, .. }));
    assert!(matches!(parse("CREATE ROLE r").unwrap(), Statement::CreateRole { if_not_exists: false, .. }));
    assert!(matches!(parse("DROP ROLE r").unwrap(), Statement::DropRole { if_exists: false, .. }));
    let Statement::GrantRole { to, .. } = parse("GRANT ROLE r TO USER u, ROLE q, GROUP 'g'").unwrap() else { panic!("not a role") };
    assert_eq!(to.len(), 3);
    assert!(matches!(parse("REVOKE ROLE r FROM USER \"hospital:ada\"").unwrap(), Statement::RevokeRole { .. }));

    let Statement::Grant(grant) = parse("GRANT SELECT (a, b), INSERT ON TABLE s.t TO ROLE r, USER u WITH GRANT OPTION").unwrap() else {
        panic!("not a grant")
    };
    assert!(grant.grant_option && grant.to.len() == 2);
    assert_eq!(grant.privileges[0].columns.as_ref().map(Vec::len), Some(2));
    assert_eq!(grant.privileges[1].privilege, Privilege::Insert);
    for (text, expected) in [
        ("GRANT ALL ON CATALOG c TO ROLE r", Privilege::All),
        ("GRANT ALL PRIVILEGES ON SCHEMA s TO ROLE r", Privilege::All),
        ("GRANT CREATE ON SCHEMA c.s TO ROLE r", Privilege::Create),
        ("GRANT MANAGE ON VIEW v TO ROLE r", Privilege::Manage),
        ("GRANT MANAGE POLICIES ON SYSTEM TO ROLE r", Privilege::ManagePolicies),
        ("GRANT READ AUDIT ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::ReadAudit)),
        ("GRANT READ FILES ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::ReadFiles)),
        ("GRANT WRITE FILES ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::WriteFiles)),
        ("GRANT MANAGE USERS ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::ManageUsers)),
        ("GRANT MANAGE QUERIES ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::ManageQueries)),
        ("GRANT CREATE CATALOG ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::CreateCatalog)),
        ("GRANT IMPERSONATE ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::Impersonate)),
        ("GRANT EMERGENCY ACCESS ON SYSTEM TO ROLE r", Privilege::System(SystemPrivilege::EmergencyAccess)),
    ] {
        let Statement::Grant(grant) = parse(text).unwrap() else { panic!("{text}") };
        assert_eq!(grant.privileges[0].privilege, expected, "{text}");
    }
    let Statement::Revoke(revoke) = parse("REVOKE GRANT OPTION FOR SELECT ON TABLE t FROM USER u").unwrap() else { panic!("not a revoke") };
    assert!(revoke.grant_option_only);

    let Statement::CreatePolicy(policy) = parse(
        "CREATE OR REPLACE POLICY p ON TABLE t AS RESTRICTIVE FOR ALL TO ROLE r, ALL EXCEPT USER u
         USING ( region = claim('region') OR (a IN (1, 2)) ) WITH CHECK (true) COMMENT 'why'",
    )
    .unwrap() else {
        panic!("not a policy")
    };
    assert_eq!((policy.kind, policy.command, policy.or_replace), (PolicyKind::Restrictive, PolicyCommand::All, true));
    let using = policy.using.as_ref().unwrap();
    assert_eq!((using.text.as_str(), using.position.line), ("region = claim('region') OR (a IN (1, 2))", 2));
    assert_eq!((policy.with_check.unwrap().text.as_str(), policy.comment.as_deref()), ("true", Some("why")));
    assert_eq!((policy.to.last(), policy.except.len()), (Some(&PrincipalRef::All), 1));
    assert!(matches!(parse("DROP POLICY IF EXISTS p ON CATALOG c").unwrap(), Statement::DropPolicy { if_exists: true, .. }));
    assert!(matches!(parse("ALTER TABLE t ENABLE ROW LEVEL SECURITY").unwrap(), Statement::RowLevelSecurity { enable: true, .. }));
    assert!(matches!(parse("ALTER VIEW v DISABLE ROW LEVEL SECURITY").unwrap(), Statement::RowLevelSecurity { enable: false, .. }));
}

#[test]
fn scripts_are_split() {
    let script = "-- first\nSELECT ';', \";\" /* ; */ ;;\n\nCREATE VIEW v AS SELECT $$;$$;\n  DROP VIEW v -- end ;\n";
    assert_eq!(split(script).unwrap(), ["SELECT ';', \";\"", "CREATE VIEW v AS SELECT $$;$$", "DROP VIEW v"]);
    assert_eq!(split(" ; -- nothing\n;").unwrap(), Vec::<&str>::new());
    assert_eq!(split("SELECT 'a").unwrap_err().to_string(), "syntax error: unterminated string literal at line 1, column 8");
}

#[test]
fn secrets_are_redacted() {
    for (text, expected) in [
        ("CREATE USER u PASSWORD 'geheim'", "CREATE USER u PASSWORD '***'"),
        ("create user u password 'geheim' ;", "create user u password '***' ;"),
        ("ALTER USER u PASSWORD $$geheim$$; SELECT 1", "ALTER USER u PASSWORD '***'; SELECT 1"),
        ("CREATE USER u PASSWORD \"geheim\"", "CREATE USER u PASSWORD '***'"),
        ("CREATE USER u PASSWORD geheim", "CREATE USER u PASSWORD '***'"),
        ("CREATE USER u PASSWORD = 'geheim'", "CREATE USER u PASSWORD '***'"),
        ("CREATE USER u PASSWORD 'it's'secret'", "CREATE USER u PASSWORD '***'"),
        ("CREATE USER u PASSWORD 'ge'heim", "CREATE USER u PASSWORD '***'"),
        ("CREATE USER u PASSWORD 'geheim' NONSENSE", "CREATE USER u PASSWORD '***'"),
        ("CREATE USER u PASSWORD 'geheim", "CREATE USER u PASSWORD '***'"),
        ("CREATE USER u PASSWORD", "CREATE USER u PASSWORD"),
        ("CREATE USER a PASSWORD 'x'; CREATE USER b PASSWORD 'y'", "CREATE USER a PASSWORD '***'; CREATE USER b PASSWORD '***'"),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://k:s@lake/t' OPTIONS ('aws.Secret_Access_Key' 'abc', 'header' 'true')",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://***@lake/t' OPTIONS ('aws.Secret_Access_Key' '***', 'header' 'true')",
        ),
        ("CREATE CATALOG c WITH (token = 'abc', uri = 'http://x')", "CREATE CATALOG c WITH (token = '***', uri = 'http://x')"),
        (
            "CREATE CATALOG c WITH ('oauth.token' = 'abc', s3.secret = 'x'",
            "CREATE CATALOG c WITH ('oauth.token' = '***', s3.secret = '***'",
        ),
        ("SELECT 'it''s', password FROM t WHERE key = 'a'", "SELECT 'it''s', password FROM t WHERE key = 'a'"),
        ("SELECT 'Secret sauce", "SELECT 'Secret '***'"),
        ("SELECT 'abc", "SELECT 'abc"),
        ("", ""),
    ] {
        assert_eq!(redact(text), expected, "{text}");
    }
}

#[test]
fn sizes_are_bounded() {
    let kind = |text: String| match parse(&text) {
        Ok(_) => "works".to_owned(),
        Err(error) => format!("{:?}: {}", error.kind, error.message),
    };
    let deep = "Exhausted: an expression is at most 256 operators deep, where a bracket counts as 4";
    assert_eq!(kind(format!("SELECT {}1{}", "(".repeat(50), ")".repeat(50))), "works");
    assert_eq!(kind(format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT {}", "(".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT {}true", "NOT ".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT 1{}", "+1".repeat(200))), "works");
    assert_eq!(kind(format!("SELECT 1{}", "+1".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT {}1", "-".to_owned() + &" -".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(30_000), " END".repeat(30_000))), deep);
    assert_eq!(kind(format!("SELECT {}1{}", "[".repeat(100_000), "]".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT {}1{}", "(1 + 1 + ".repeat(120), ")".repeat(120))), deep);
    assert_eq!(kind(format!("SELECT a{}", "[1]".repeat(80_000))), deep);
    assert_eq!(kind(format!("SELECT a{}", "::int".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT a{}", " IS NOT DISTINCT FROM a".repeat(40_000))), deep);
    assert_eq!(kind(format!("SELECT a{}", " OVER (PARTITION BY a".repeat(40_000))), deep);
    assert_eq!(kind(format!("SELECT a{}", ".a".repeat(100_000))), "Exhausted: the statement is nested too deeply (limit 256)");
    let interval = "Invalid: syntax error: expected the interval's value, found \"INTERVAL\"";
    assert_eq!(kind(format!("SELECT {} 1", "INTERVAL ".repeat(100_000))), interval);
    assert_eq!(kind(format!("SELECT CAST(a AS {}INT{})", "ARRAY<".repeat(45), ">".repeat(45))), "works");
    assert_eq!(kind(format!("SELECT CAST(a AS {}INT{})", "ARRAY<".repeat(100_000), ">".repeat(100_000))), deep);
    assert_eq!(kind(format!("SELECT CAST(a AS INT{})", "[]".repeat(100_000))), deep);
    assert_eq!(
        kind(format!("SELECT * FROM t{}", " CROSS JOIN t".repeat(50_000))),
        "Exhausted: a statement has at most 128 tables in its FROM clauses"
    );
    assert_eq!(kind(format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(128))), "works");
    assert_eq!(kind(format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(1000))), "Exhausted: a statement has at most 128 set operations");
    assert_eq!(kind(format!("SELECT * FROM t{}", ", t".repeat(300))), "Exhausted: a statement has at most 128 tables in its FROM clauses");
    assert_eq!(kind(format!("SELECT 1 WHERE 1 IN ({}1)", "1, ".repeat(100_000))), "works");
    assert_eq!(kind(format!("SELECT {}1", "1,".repeat(140_000))), "Exhausted: a statement has at most 262144 words and signs");
    let nested = |depth: usize| kind(format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(depth), ")".repeat(depth)));
    assert_eq!((nested(31).as_str(), nested(32).as_str()), ("works", "Exhausted: subqueries are nested at most 32 deep"));
    let long = parse(&" ".repeat(DEFAULT_STATEMENT_BYTES + 1)).unwrap_err();
    assert_eq!(long.kind, ErrorKind::Exhausted);
    assert_eq!(long.message, "the statement has 1048577 bytes, the limit is 1048576 (limits.statement_bytes)");
    let name = |bytes: usize| parse(&format!("CREATE SCHEMA {}", "a".repeat(bytes)));
    assert!(name(255).is_ok());
    assert_eq!(name(256).unwrap_err().message, "a name has at most 255 bytes, this one has 256");
}

/// Subqueries and joins in brackets make sqlparser try twice at each level: it must not take for ever.
#[test]
fn nested_tables_end_in_time() {
    for depth in [10, 40, 60] {
        for (open, close) in [("(", ")"), ("(SELECT * FROM ", ")"), ("(SELECT * FROM t WHERE a IN ", ")"), ("(t JOIN ", " ON true)")] {
            let text = format!("SELECT * FROM {}t{}", open.repeat(depth), close.repeat(depth));
            let started = std::time::Instant::now();
            let _ = parse(&text);
            assert!(started.elapsed().as_secs() < 5, "{open} {depth} took {:?}", started.elapsed());
        }
    }
}

/// What the limits let through must be planned, run and dropped on the stack of a worker.
#[test]
fn the_deepest_statements_run() {
    let thread = std::thread::Builder::new().stack_size(WORKER_STACK_BYTES / 2).spawn(|| {
        let from = "FROM (VALUES (1), (2)) AS t (x)";
        assert_eq!(rows(format!("SELECT x{} {from}", " + 1".repeat(252))), 2);
        assert_eq!(rows(format!("SELECT x {from} WHERE x = 1{}", " OR x % 2 = x".repeat(250))), 1);
        assert_eq!(rows(format!("SELECT x {from} WHERE x = 1{}", " AND x + 1 = 2".repeat(250))), 1);
        assert_eq!(rows(format!("SELECT {}x{} {from}", "abs(".repeat(64), ")".repeat(64))), 2);
        assert_eq!(rows(format!("SELECT {}x{} {from}", "(1 + ".repeat(50), ")".repeat(50))), 2);
        assert_eq!(rows(format!("SELECT {}1{} {from}", "CASE WHEN x = 1 THEN 2 ELSE ".repeat(50), " END".repeat(50))), 2);
        assert_eq!(rows(format!("SELECT 1{}", " UNION SELECT 1".repeat(128))), 1);
        let joins: String = (1..48).map(|n| format!(" JOIN (VALUES (1)) t{n} (x) ON t0.x = t{n}.x")).collect();
        assert_eq!(rows(format!("SELECT 1 FROM (VALUES (1)) t0 (x){joins}")), 1);
        assert_eq!(rows(format!("SELECT * FROM {}(VALUES (1)){}", "(SELECT * FROM ".repeat(30), ") AS t WHERE true".repeat(30))), 1);
    });
    thread.unwrap().join().unwrap();
}

fn rows(text: String) -> usize {
    let Ok(Statement::Query(query)) = parse(&text) else { panic!("{:?}", parse(&text)) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let context = datafusion::prelude::SessionContext::new();
        let statement = datafusion::sql::sqlparser::ast::Statement::Query(query.ast);
        let statement = datafusion::sql::parser::Statement::Statement(Box::new(statement));
        let plan = context.state().statement_to_plan(statement).await.unwrap();
        let batches = context.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
        batches.iter().map(|batch| batch.num_rows()).sum::<usize>()
    })
}

fn parse_whole(text: &str) -> Statement {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_masking_policy_is_read_whole() {
    let text = "CREATE OR REPLACE MASKING POLICY m ON TABLE a.t (c, \"D\") TO ROLE r, USER u, GROUP 'g' EXCEPT ROLE s \
                USING (left(c, 1)) PRIORITY -3 COMMENT 'why'";
    let Statement::CreateMaskingPolicy(policy) = parse_whole(text) else { panic!("{text}") };
    assert!(policy.or_replace && policy.priority == -3 && policy.comment.as_deref() == Some("why"));
    assert_eq!((policy.on.to_string(), policy.to.len(), policy.except.len()), ("a.t".to_owned(), 3, 1));
    assert_eq!(policy.columns.iter().map(|column| column.as_str()).collect::<Vec<_>>(), ["c", "D"]);
    assert!(matches!(&policy.using, MaskUsing::Expression(expr) if expr.text == "left(c, 1)"));
    for action in MaskAction::EVERY {
        let text = format!("create masking policy m on table t (c) to all using action {}", action.name().to_uppercase());
        let Statement::CreateMaskingPolicy(policy) = parse_whole(&text) else { panic!("{text}") };
        assert!(matches!(policy.using, MaskUsing::Action(found, _) if found == action) && policy.priority == 0);
    }
    for text in ["DROP MASKING POLICY IF EXISTS m ON TABLE a.t", "DROP MASKING POLICY IF EXISTS m ON a.t"] {
        assert!(matches!(parse_whole(text), Statement::DropMaskingPolicy { on, if_exists: true, .. } if on.to_string() == "a.t"), "{text}");
    }
    assert_eq!(parse_whole("SHOW MASKING POLICIES"), Statement::Show(Show::MaskingPolicies(None)));
    assert!(matches!(parse_whole("SHOW MASKING POLICIES ON t"), Statement::Show(Show::MaskingPolicies(Some(_)))));
    assert_errors(&[
        (
            "CREATE MASKING POLICY m ON VIEW v (c) TO ALL USING (1)",
            "Invalid: syntax error: expected TABLE, found \"VIEW\" at line 1, column 28",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t TO ALL USING (1)",
            "Invalid: syntax error: expected the columns, in parentheses, found \"TO\" at line 1, column 36",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t (c.child) TO ALL USING (1)",
            "Invalid: a mask is for a whole column: name \"c\" alone at line 1, column 37",
        ),
        ("CREATE MASKING POLICY m ON TABLE t (c, d, c) TO ALL USING (1)", "Invalid: column \"c\" is named twice at line 1, column 43"),
        (
            "CREATE MASKING POLICY m ON TABLE t (c d) TO ALL USING (1)",
            "Invalid: syntax error: expected \",\" or \")\", found \"d\" at line 1, column 39",
        ),
        ("CREATE MASKING POLICY m ON TABLE t (c) USING (1)", "Invalid: syntax error: expected TO, found \"USING\" at line 1, column 40"),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL",
            "Invalid: syntax error: expected USING, found the end of the statement at line 1, column 46",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL USING 1",
            "Invalid: syntax error: expected an expression in parentheses, or ACTION, found \"1\" at line 1, column 53",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL USING ACTION hash",
            "Invalid: syntax error: expected one of replace_with_null, mask_alphanum, show_first_4, show_last_4, truncate_to_month, truncate_to_year, sha256_query_local, sha256_global, found \"hash\" at line 1, column 60",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL EXCEPT ALL USING (1)",
            "Invalid: syntax error: expected USER, ROLE or GROUP, found \"ALL\" at line 1, column 54",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL USING (1) PRIORITY high",
            "Invalid: syntax error: expected a whole number, found \"high\" at line 1, column 66",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL USING (1) PRIORITY 9223372036854775808",
            "Invalid: syntax error: expected a whole number of 64 bits, found \"9223372036854775808\" at line 1, column 66",
        ),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL USING (1) WITH CHECK (true)",
            "Invalid: syntax error: expected the end of the statement, found \"WITH\" at line 1, column 57",
        ),
        ("DROP MASKING POLICY m", "Invalid: syntax error: expected ON, found the end of the statement at line 1, column 22"),
        (
            "CREATE MASKING POLICY m ON TABLE t (c) TO ALL USING (c = $1)",
            "Invalid: a parameter can stand in a query only at line 1, column 58",
        ),
    ]);
}

#[test]
fn kill_names_what_and_which() {
    let kill = |what, id: &str| Statement::Kill { what, id: id.to_owned() };
    assert_eq!(parse("kill query '0a'").unwrap(), kill(KillTarget::Query, "0a"));
    assert_eq!(parse("KILL SESSION 's';").unwrap(), kill(KillTarget::Session, "s"));
    let long = format!("KILL QUERY '{}'", "x".repeat(65));
    assert_errors(&[
        ("KILL", "Invalid: syntax error: expected QUERY or SESSION, found the end of the statement at line 1, column 5"),
        ("KILL 'x'", "Invalid: syntax error: expected QUERY or SESSION, found 'x' at line 1, column 6"),
        ("KILL QUERY x", "Invalid: syntax error: expected an id, between single quotes, found \"x\" at line 1, column 12"),
        ("KILL QUERY ''", "Invalid: an id has 1 to 64 characters at line 1, column 12"),
        (&long, "Invalid: an id has 1 to 64 characters at line 1, column 12"),
        ("KILL QUERY 'x' NOW", "Invalid: syntax error: expected the end of the statement, found \"NOW\" at line 1, column 16"),
    ]);
}

#[test]
fn emergency_access_has_a_reason_a_time_and_tables() {
    let set = |text: &str| match parse(text).unwrap() {
        Statement::SetEmergencyAccess(set) => {
            (set.reason, set.minutes, set.on.map(|on| on.iter().map(ToString::to_string).collect::<Vec<_>>()))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(set("SET EMERGENCY ACCESS REASON ' an outbreak '"), ("an outbreak".to_owned(), None, None));
    let whole = set("set emergency access reason 'x' for 60 minutes on t, s.u");
    assert_eq!(whole, ("x".to_owned(), Some(60), Some(vec!["t".to_owned(), "s.u".to_owned()])));
    assert_eq!(set("SET EMERGENCY ACCESS REASON 'x' FOR 1 MINUTE").1, Some(1));
    assert_eq!(parse("END EMERGENCY ACCESS").unwrap(), Statement::EndEmergencyAccess { id: None });
    assert_eq!(parse("END EMERGENCY ACCESS 'a'").unwrap(), Statement::EndEmergencyAccess { id: Some("a".to_owned()) });
    assert_eq!(parse("SHOW EMERGENCY ACCESS").unwrap(), Statement::Show(Show::EmergencyAccess));
    let long = format!("SET EMERGENCY ACCESS REASON '{}'", "x".repeat(1001));
    assert_errors(&[
        ("SET EMERGENCY ACCESS", "Invalid: syntax error: expected REASON, found the end of the statement at line 1, column 21"),
        (
            "SET EMERGENCY ACCESS REASON",
            "Invalid: syntax error: expected the reason, between single quotes, found the end of the statement at line 1, column 28",
        ),
        ("SET EMERGENCY ACCESS REASON '  '", "Invalid: a reason has 1 to 1000 characters, in one line at line 1, column 29"),
        ("SET EMERGENCY ACCESS REASON 'a\nb'", "Invalid: a reason has 1 to 1000 characters, in one line at line 1, column 29"),
        (&long, "Invalid: a reason has 1 to 1000 characters, in one line at line 1, column 29"),
        ("SET EMERGENCY ACCESS REASON 'x' FOR 0 MINUTES", "Invalid: emergency access is for 1 to 60 minutes at line 1, column 37"),
        ("SET EMERGENCY ACCESS REASON 'x' FOR 61 MINUTES", "Invalid: emergency access is for 1 to 60 minutes at line 1, column 37"),
        ("SET EMERGENCY ACCESS REASON 'x' FOR 1.5 MINUTES", "Invalid: emergency access is for 1 to 60 minutes at line 1, column 37"),
        (
            "SET EMERGENCY ACCESS REASON 'x' FOR -1 MINUTES",
            "Invalid: syntax error: expected a number of minutes, found \"-\" at line 1, column 37",
        ),
        ("SET EMERGENCY ACCESS REASON 'x' FOR 2 HOURS", "Invalid: syntax error: expected MINUTES, found \"HOURS\" at line 1, column 39"),
        (
            "SET EMERGENCY ACCESS REASON 'x' ON",
            "Invalid: syntax error: expected a table or view, found the end of the statement at line 1, column 35",
        ),
        (
            "SET EMERGENCY ACCESS REASON 'x' ON t FOR 2 MINUTES",
            "Invalid: syntax error: expected the end of the statement, found \"FOR\" at line 1, column 38",
        ),
        ("END EMERGENCY ACCESS x", "Invalid: syntax error: expected an id, between single quotes, found \"x\" at line 1, column 22"),
        ("END EMERGENCY", "Invalid: syntax error: expected a statement, found \"END\" at line 1, column 1"),
    ]);
}
