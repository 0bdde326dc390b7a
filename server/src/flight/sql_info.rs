//! What GetSqlInfo says of this server: every code of FlightSql.proto, each in the union child that drivers read.
//!
//! JDBC before 19 fails on a missing code, and casts the wrong child; ODBC reads it as undefined memory. Codes that
//! FlightSql.proto does not know are never sent.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow_flight::sql::SqlInfo as Info;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};

use crate::error::{Error, Result};

/// "No limit, or not known": what JDBC means by 0.
const NO_LIMIT: i64 = 0;

/// What the answers depend on.
pub struct ServerFacts {
    pub version: String,
    pub statement_bytes: u64,
    pub statements_per_session: u64,
    pub sessions: u64,
}

pub struct SqlInfo(SqlInfoData);

impl SqlInfo {
    pub fn new(facts: &ServerFacts) -> Result<Self> {
        let mut info = SqlInfoDataBuilder::new();
        server(&mut info, facts);
        identifiers(&mut info);
        functions(&mut info);
        grammar(&mut info);
        limits(&mut info, facts);
        transactions(&mut info);
        info.build().map(Self).map_err(Error::internal)
    }

    /// The codes asked for; an empty list asks for all. A code that is not known is left out.
    pub fn batch(&self, codes: &[u32]) -> Result<RecordBatch> {
        self.0.record_batch(codes.iter().copied()).map_err(Error::internal)
    }
}

fn server(info: &mut SqlInfoDataBuilder, facts: &ServerFacts) {
    info.append(Info::FlightSqlServerName, "Lazaret");
    info.append(Info::FlightSqlServerVersion, facts.version.as_str());
    info.append(Info::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    info.append(Info::FlightSqlServerReadOnly, false);
    info.append(Info::FlightSqlServerSql, true);
    info.append(Info::FlightSqlServerSubstrait, false);
    info.append(Info::FlightSqlServerSubstraitMinVersion, "");
    info.append(Info::FlightSqlServerSubstraitMaxVersion, "");
    info.append(Info::FlightSqlServerTransaction, 0i32);
    info.append(Info::FlightSqlServerCancel, true);
    info.append(Info::FlightSqlServerBulkIngestion, false);
    info.append(Info::FlightSqlServerIngestTransactionsSupported, false);
    info.append(Info::FlightSqlServerStatementTimeout, 0i32);
    info.append(Info::FlightSqlServerTransactionTimeout, 0i32);
}

fn identifiers(info: &mut SqlInfoDataBuilder) {
    // 3: folded to lower case; 0 (quoted): kept as written, which the enum can only call "unknown".
    info.append(Info::SqlIdentifierCase, 3i64);
    info.append(Info::SqlIdentifierQuoteChar, "\"");
    info.append(Info::SqlQuotedIdentifierCase, 0i64);
    info.append(Info::SqlSearchStringEscape, "\\");
    info.append(Info::SqlExtraNameCharacters, "");
    info.append(Info::SqlSchemaTerm, "schema");
    info.append(Info::SqlProcedureTerm, "procedure");
    info.append(Info::SqlCatalogTerm, "catalog");
    info.append(Info::SqlCatalogAtStart, true);
    info.append(Info::SqlAllTablesAreSelectable, true);
    info.append(Info::SqlNullOrdering, 0i64);
}

fn functions(info: &mut SqlInfoDataBuilder) {
    info.append(Info::SqlKeywords, KEYWORDS);
    info.append(Info::SqlNumericFunctions, NUMERIC_FUNCTIONS);
    info.append(Info::SqlStringFunctions, STRING_FUNCTIONS);
    info.append(Info::SqlSystemFunctions, ["arrow_typeof", "coalesce", "current_user", "nullif", "version"].as_slice());
    info.append(Info::SqlDatetimeFunctions, DATETIME_FUNCTIONS);
    info.append(Info::SqlSupportsConvert, conversions());
}

fn grammar(info: &mut SqlInfoDataBuilder) {
    for (code, supported) in [
        (Info::SqlDdlCatalog, true),
        (Info::SqlDdlSchema, true),
        (Info::SqlDdlTable, true),
        (Info::SqlSupportsColumnAliasing, true),
        (Info::SqlNullPlusNullIsNull, true),
        (Info::SqlSupportsTableCorrelationNames, true),
        (Info::SqlSupportsDifferentTableCorrelationNames, false),
        (Info::SqlSupportsExpressionsInOrderBy, true),
        (Info::SqlSupportsOrderByUnrelated, true),
        (Info::SqlSupportsLikeEscapeClause, true),
        (Info::SqlSupportsNonNullableColumns, true),
        (Info::SqlSupportsIntegrityEnhancementFacility, false),
        (Info::SqlSelectForUpdateSupported, false),
        (Info::SqlStoredProceduresSupported, false),
        (Info::SqlCorrelatedSubqueriesSupported, true),
        (Info::SqlBatchUpdatesSupported, true),
        (Info::SqlNamedParametersSupported, false),
        (Info::SqlLocatorsUpdateCopy, false),
        (Info::SqlStoredFunctionsUsingCallSyntaxSupported, false),
    ] {
        info.append(code, supported);
    }
    // Bitmasks: bit n is the enum's value n.
    for (code, bits) in [
        (Info::SqlSupportedGroupBy, 0b11),
        (Info::SqlSupportedGrammar, 0b11),
        // Entry level only, and never without its bit: ODBC tests it before the others.
        (Info::SqlAnsi92SupportedLevel, 0b1),
        (Info::SqlOuterJoinsSupportLevel, 0b110),
        (Info::SqlSchemasSupportedActions, 0b100),
        (Info::SqlCatalogsSupportedActions, 0b100),
        (Info::SqlSupportedPositionedCommands, 0),
        (Info::SqlSupportedSubqueries, 0b0111),
        (Info::SqlSupportedUnions, 0b11),
        (Info::SqlSupportedResultSetTypes, 0b10),
        (Info::SqlSupportedConcurrenciesForResultSetUnspecified, 0),
        (Info::SqlSupportedConcurrenciesForResultSetForwardOnly, 0b10),
        (Info::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0),
        (Info::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0),
    ] {
        info.append(code, bits);
    }
}

fn limits(info: &mut SqlInfoDataBuilder, facts: &ServerFacts) {
    let limit = |value: u64| i64::try_from(value).unwrap_or(NO_LIMIT);
    for (code, value) in [
        (Info::SqlMaxBinaryLiteralLength, NO_LIMIT),
        (Info::SqlMaxCharLiteralLength, NO_LIMIT),
        (Info::SqlMaxColumnNameLength, NO_LIMIT),
        (Info::SqlMaxColumnsInGroupBy, NO_LIMIT),
        (Info::SqlMaxColumnsInIndex, NO_LIMIT),
        (Info::SqlMaxColumnsInOrderBy, NO_LIMIT),
        (Info::SqlMaxColumnsInSelect, NO_LIMIT),
        (Info::SqlMaxColumnsInTable, NO_LIMIT),
        (Info::SqlMaxConnections, limit(facts.sessions)),
        (Info::SqlMaxCursorNameLength, NO_LIMIT),
        (Info::SqlMaxIndexLength, NO_LIMIT),
        (Info::SqlDbSchemaNameLength, NO_LIMIT),
        (Info::SqlMaxProcedureNameLength, NO_LIMIT),
        (Info::SqlMaxCatalogNameLength, NO_LIMIT),
        (Info::SqlMaxRowSize, NO_LIMIT),
        (Info::SqlMaxStatementLength, limit(facts.statement_bytes)),
        (Info::SqlMaxStatements, limit(facts.statements_per_session)),
        (Info::SqlMaxTableNameLength, NO_LIMIT),
        (Info::SqlMaxTablesInSelect, NO_LIMIT),
        (Info::SqlMaxUsernameLength, NO_LIMIT),
    ] {
        info.append(code, value);
    }
    info.append(Info::SqlMaxRowSizeIncludesBlobs, true);
}

fn transactions(info: &mut SqlInfoDataBuilder) {
    info.append(Info::SqlDefaultTransactionIsolation, 0i64);
    info.append(Info::SqlTransactionsSupported, false);
    info.append(Info::SqlSupportedTransactionsIsolationLevels, 0b1i32);
    info.append(Info::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(Info::SqlDataDefinitionsInTransactionsIgnored, false);
    info.append(Info::SqlSavepointsSupported, false);
}

/// Which types CAST takes to which, by the numbers of `SqlSupportsConvert`.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    const BIGINT: i32 = 0;
    const BIT: i32 = 2;
    const CHAR: i32 = 3;
    const DATE: i32 = 4;
    const TIMESTAMP: i32 = 16;
    const VARBINARY: i32 = 18;
    const VARCHAR: i32 = 19;
    // BIGINT, DECIMAL, FLOAT, INTEGER, NUMERIC, REAL, SMALLINT, TINYINT
    let numbers = [BIGINT, 5, 6, 7, 12, 13, 14, 17];
    let texts = [CHAR, VARCHAR];
    let mut from = BTreeMap::new();
    for number in numbers {
        from.insert(number, numbers.into_iter().chain([BIT]).chain(texts).collect());
    }
    for text in texts {
        from.insert(text, numbers.into_iter().chain([BIT, DATE, TIMESTAMP, VARBINARY]).chain(texts).collect());
    }
    from.insert(BIT, numbers.into_iter().chain([BIT]).chain(texts).collect());
    from.insert(DATE, [DATE, TIMESTAMP].into_iter().chain(texts).collect());
    from.insert(TIMESTAMP, [DATE, TIMESTAMP].into_iter().chain(texts).collect());
    from.insert(VARBINARY, [VARBINARY].into_iter().chain(texts).collect());
    from
}

/// Reserved here and not in SQL:2003, which is what JDBC asks for.
const KEYWORDS: &[&str] = &[
    "CATALOG", "COPY", "DATABASE", "DESCRIBE", "EXCLUDE", "EXPLAIN", "ILIKE", "LIMIT", "MASKING", "OFFSET", "OPTIMIZE", "OWNER", "POLICY",
    "QUALIFY", "REPLACE", "RESET", "RESTORE", "SEMI", "SHOW", "TOKEN", "USE", "VACUUM", "VERSION", "VIEW",
];

const NUMERIC_FUNCTIONS: &[&str] = &[
    "abs",
    "acos",
    "asin",
    "atan",
    "atan2",
    "ceil",
    "cos",
    "cot",
    "degrees",
    "exp",
    "factorial",
    "floor",
    "gcd",
    "lcm",
    "ln",
    "log",
    "log10",
    "log2",
    "pi",
    "power",
    "radians",
    "random",
    "round",
    "signum",
    "sin",
    "sqrt",
    "tan",
    "trunc",
];

const STRING_FUNCTIONS: &[&str] = &[
    "ascii",
    "bit_length",
    "btrim",
    "char_length",
    "chr",
    "concat",
    "concat_ws",
    "ends_with",
    "initcap",
    "left",
    "length",
    "levenshtein",
    "lower",
    "lpad",
    "ltrim",
    "octet_length",
    "overlay",
    "position",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substring",
    "translate",
    "trim",
    "upper",
];

const DATETIME_FUNCTIONS: &[&str] = &[
    "current_date",
    "current_time",
    "current_timestamp",
    "date_bin",
    "date_part",
    "date_trunc",
    "extract",
    "from_unixtime",
    "make_date",
    "now",
    "to_char",
    "to_date",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_seconds",
    "to_unixtime",
];

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::UInt32Type;

    use super::*;

    fn info() -> SqlInfo {
        SqlInfo::new(&ServerFacts { version: "0".into(), statement_bytes: 1 << 20, statements_per_session: 100, sessions: 1000 }).unwrap()
    }

    /// The child of the union that drivers read a code from: string, bool, bigint, int32, list, map.
    fn child_of(code: u32) -> i8 {
        match code {
            0..=2 | 6 | 7 | 504 | 513 | 514 | 529..=531 => 0,
            3..=5 | 9..=11 | 500..=502 | 506 | 515 | 516 | 518..=521 | 523 | 524 | 527 | 532 | 536 | 537 | 539 | 556 | 563 => 1,
            565 | 566 | 572..=576 => 1,
            541..=555 | 557..=561 | 503 | 505 | 507 | 562 => 2,
            8 | 100 | 101 | 522 | 525 | 526 | 528 | 533..=535 | 538 | 540 | 564 | 567..=571 => 3,
            508..=512 => 4,
            517 => 5,
            _ => panic!("{code} is not in FlightSql.proto"),
        }
    }

    #[test]
    fn all_91_codes_are_there_each_in_its_child() {
        let batch = info().batch(&[]).unwrap();
        let codes: Vec<u32> = batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
        let expected: Vec<u32> = (0..=11).chain([100, 101]).chain(500..=576).filter(|code| Info::try_from(*code as i32).is_ok()).collect();
        assert_eq!(codes, expected);
        assert_eq!(codes.len(), 91);
        let values = batch.column(1).as_union();
        for (row, code) in codes.into_iter().enumerate() {
            assert_eq!(values.type_id(row), child_of(code), "code {code}");
        }
        assert!(!batch.schema().field(0).is_nullable() && !batch.schema().field(1).is_nullable());
        assert_eq!(batch.schema().as_ref(), SqlInfoDataBuilder::schema());
    }

    #[test]
    fn a_list_of_codes_selects_and_unknown_ones_are_left_out() {
        let batch = info().batch(&[8, 3, 10_000]).unwrap();
        assert_eq!(batch.column(0).as_primitive::<UInt32Type>().values(), &[3, 8]);
        assert_eq!(info().batch(&[10_000]).unwrap().num_rows(), 0);
    }
}
