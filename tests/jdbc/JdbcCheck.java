import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Calendar;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.TimeZone;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/**
 * What a Java program does with the Flight SQL JDBC driver. All checks run in one JVM, in order, and each prints one line
 * of JSON; test_jdbc.py finds their names in this file. Arguments: address, admin's password, a token of the user ana.
 */
public final class JdbcCheck {
  private interface Body {
    void run() throws Exception;
  }

  /** Runs for hours on any machine, and needs no memory. */
  private static final String ENDLESS =
      "SELECT count(*) FROM generate_series(1, 10000000) a CROSS JOIN generate_series(1, 10000000) b WHERE (a.value * b.value) % 7 = 3";

  private static final String TYPED =
      "CREATE TABLE jdbc.typed AS SELECT CAST(-8 AS TINYINT) AS i8, CAST(-16 AS SMALLINT) AS i16, CAST(-32 AS INT) AS i32, "
          + "-9223372036854775807 AS i64, CAST(0.5 AS REAL) AS f32, CAST(0.25 AS DOUBLE) AS f64, "
          + "CAST('-123.456' AS DECIMAL(12, 3)) AS dec, TRUE AS b, 'Zé 😀' AS s, X'00ff10' AS x, DATE '2024-02-29' AS d, "
          + "TIMESTAMP '2024-02-29 12:34:56.789' AS ntz, TIMESTAMPTZ '2024-02-29T12:34:56.789Z' AS tz, "
          + "[1, NULL, 3] AS list, {'a': 1, 'b': 'x'} AS st, MAP(['k'], [1]) AS m";

  private static String address;
  private static String password;
  private static String token;

  public static void main(String[] args) throws Exception {
    TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
    address = args[0];
    password = args[1];
    token = args[2];
    connecting();
    try (Connection c = admin()) {
      updates(c);
      queries(c);
      types(c);
      parameters(c);
      metadata(c);
      errors(c);
      cancelling(c);
    }
    // The driver's threads are no daemons.
    System.exit(0);
  }

  private static void connecting() {
    check("connect with a password", () -> {
      try (Connection c = admin()) {
        same("admin", one(c, "SELECT current_user"));
        same(true, c.isValid(5));
      }
    });
    check("connect with a token", () -> {
      try (Connection c = connect("token", token)) {
        same("hospital:ana", one(c, "SELECT current_user"));
      }
    });
    check("refuse a wrong password", () -> {
      SQLException e = fails(() -> {
        try (Connection c = connect("user", "admin", "password", "wrong")) {
          one(c, "SELECT 1");
        }
      });
      contains(e, "UNAUTHENTICATED");
    });
    check("refuse a wrong token", () -> {
      SQLException e = fails(() -> {
        try (Connection c = connect("token", "not.a.token")) {
          one(c, "SELECT 1");
        }
      });
      contains(e, "UNAUTHENTICATED");
    });
    check("refuse who has no credential", () -> {
      SQLException e = fails(() -> {
        try (Connection c = connect()) {
          one(c, "SELECT 1");
        }
      });
      contains(e, "UNAUTHENTICATED");
    });
    check("start in a catalog", () -> {
      Connection c = connect("user", "admin", "password", password, "catalog", "lazaret");
      try (Statement s = c.createStatement()) {
        same(true, column(s.executeQuery("SHOW SCHEMAS"), "schema_name").contains("public"));
      }
      try {
        c.close();
      } catch (SQLException e) {
        // 18.3.0 closes the session twice where a catalog was given, the second time without a channel.
        contains(e, "Channel shutdown invoked");
      }
    });
  }

  private static void updates(Connection c) {
    check("DDL by executeUpdate runs once", () -> {
      same(0, update(c, "CREATE SCHEMA jdbc"));
      same(1L, audited(c, "CREATE SCHEMA jdbc"));
      contains(fails(() -> update(c, "CREATE SCHEMA jdbc")), "ALREADY_EXISTS");
    });
    check("CTAS by executeUpdate runs once, and counts", () -> {
      String sql = "CREATE TABLE jdbc.counted AS SELECT value AS v FROM generate_series(1, 123)";
      same(123, update(c, sql));
      same(1L, audited(c, sql));
      same(123L, one(c, "SELECT count(*) FROM jdbc.counted"));
    });
    check("DDL by execute runs once", () -> {
      String sql = "CREATE VIEW jdbc.few AS SELECT v FROM jdbc.counted WHERE v < 4";
      try (Statement s = c.createStatement()) {
        same(false, s.execute(sql));
      }
      same(1L, audited(c, sql));
      same(3L, one(c, "SELECT count(*) FROM jdbc.few"));
    });
    check("CTAS by a prepared executeUpdate runs once", () -> {
      String sql = "CREATE TABLE jdbc.prepared AS SELECT 1 AS v";
      try (PreparedStatement s = c.prepareStatement(sql)) {
        s.executeUpdate();
      }
      same(1L, audited(c, sql));
      same(1L, one(c, "SELECT v FROM jdbc.prepared"));
    });
    check("DDL by a prepared execute runs once", () -> {
      String sql = "DROP TABLE jdbc.prepared";
      try (PreparedStatement s = c.prepareStatement(sql)) {
        s.execute();
      }
      same(1L, audited(c, sql));
      contains(fails(() -> one(c, "SELECT v FROM jdbc.prepared")), "not found");
    });
    check("CTAS with a parameter", () -> {
      try (PreparedStatement s = c.prepareStatement("CREATE TABLE jdbc.bound AS SELECT v FROM jdbc.counted WHERE v <= ?")) {
        s.setLong(1, 7);
        s.executeUpdate();
      }
      same(7L, one(c, "SELECT count(*) FROM jdbc.bound"));
    });
    check("INSERT by executeUpdate runs once, and counts", () -> {
      update(c, "CREATE TABLE jdbc.added AS SELECT CAST(0 AS BIGINT) AS v, 'x' AS t, DATE '2024-01-01' AS d, CAST(1 AS DECIMAL(10, 2)) AS n");
      String sql = "INSERT INTO jdbc.added (v, t) VALUES (1, 'a'), (2, NULL)";
      same(2, update(c, sql));
      same(1L, audited(c, sql));
      same(3L, one(c, "SELECT count(*) FROM jdbc.added"));
    });
    check("INSERT by execute runs once", () -> {
      String sql = "INSERT INTO jdbc.added (v) SELECT v + 10 FROM jdbc.added";
      try (Statement s = c.createStatement()) {
        same(false, s.execute(sql));
      }
      same(1L, audited(c, sql));
      same(6L, one(c, "SELECT count(*) FROM jdbc.added"));
    });
    check("INSERT with parameters", () -> {
      String sql = "INSERT INTO jdbc.added VALUES (?, ?, ?, ?)";
      try (PreparedStatement s = c.prepareStatement(sql)) {
        s.setLong(1, 100);
        s.setString(2, "Zé 😀");
        s.setDate(3, Date.valueOf("2024-02-29"));
        s.setBigDecimal(4, new BigDecimal("12.50"));
        same(1, s.executeUpdate());
      }
      same(1L, audited(c, sql));
      same("Zé 😀", one(c, "SELECT t FROM jdbc.added WHERE v = 100 AND d = DATE '2024-02-29' AND n = 12.5"));
    });
    check("a batch of INSERT is one statement", () -> {
      String sql = "INSERT INTO jdbc.added (v, t) VALUES (?, ?)";
      try (PreparedStatement s = c.prepareStatement(sql)) {
        for (int row = 0; row < 50; row++) {
          s.setLong(1, 1000 + row);
          s.setString(2, "row " + row);
          s.addBatch();
        }
        s.executeBatch();
      }
      same(1L, audited(c, sql));
      same(50L, one(c, "SELECT count(DISTINCT t) FROM jdbc.added WHERE v >= 1000"));
    });
    check("a table of all types", () -> update(c, TYPED));
    check("a token is made once, and signs in", () -> {
      update(c, "CREATE USER jdbc_bot");
      String sql = "CREATE TOKEN t FOR USER jdbc_bot EXPIRES IN 1 DAYS";
      String made;
      try (Statement s = c.createStatement(); ResultSet result = s.executeQuery(sql)) {
        same(true, result.next());
        made = result.getString("token");
        same(false, result.next());
      }
      same(1L, audited(c, sql));
      try (Connection bot = connect("user", "jdbc_bot", "password", made)) {
        same("jdbc_bot", one(bot, "SELECT current_user"));
      }
      try (Connection bot = connect("token", made)) {
        same("jdbc_bot", one(bot, "SELECT current_user"));
        update(c, "DROP TOKEN t FOR USER jdbc_bot");
        contains(fails(() -> one(bot, "SELECT 1")), "UNAUTHENTICATED");
      }
    });
  }

  private static void queries(Connection c) {
    check("rows in order", () -> {
      List<Long> values = new ArrayList<>();
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT v FROM jdbc.few ORDER BY v DESC")) {
        while (r.next()) {
          values.add(r.getLong("v"));
        }
      }
      same(List.of(3L, 2L, 1L), values);
    });
    check("execute of a query", () -> {
      try (Statement s = c.createStatement()) {
        same(true, s.execute("SELECT 1 AS v"));
        try (ResultSet r = s.getResultSet()) {
          same(true, r.next());
          same(1, r.getInt(1));
        }
      }
    });
    check("an empty result has its columns", () -> {
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT v, 'x' AS t FROM jdbc.few WHERE v > 100")) {
        same(false, r.next());
        // 18.3.0 counts them twice where there is no row: those of the prepared statement and those of the result.
        ResultSetMetaData m = r.getMetaData();
        same(true, m.getColumnCount() == 2 || m.getColumnCount() == 4);
        same("v", m.getColumnLabel(1));
        same("t", m.getColumnLabel(2));
        same(Types.BIGINT, m.getColumnType(1));
      }
    });
    check("many rows", () -> {
      long sum = 0;
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT value FROM generate_series(1, 100000)")) {
        while (r.next()) {
          sum += r.getLong(1);
        }
      }
      same(100_000L * 100_001L / 2, sum);
    });
    check("SHOW, DESCRIBE and EXPLAIN give rows", () -> {
      for (String sql : List.of("SHOW SCHEMAS", "DESCRIBE jdbc.counted", "EXPLAIN SELECT * FROM jdbc.counted")) {
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(sql)) {
          same(true, r.next());
        }
      }
    });
    check("USE keeps", () -> {
      try (Connection own = admin()) {
        update(own, "USE lazaret.jdbc");
        same(123L, one(own, "SELECT count(*) FROM counted"));
      }
    });
  }

  private static void types(Connection c) {
    check("every type by its getter", () -> {
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT * FROM jdbc.typed")) {
        same(true, r.next());
        same((byte) -8, r.getByte("i8"));
        same((short) -16, r.getShort("i16"));
        same(-32, r.getInt("i32"));
        same(-9223372036854775807L, r.getLong("i64"));
        same(0.5f, r.getFloat("f32"));
        same(0.25, r.getDouble("f64"));
        same(new BigDecimal("-123.456"), r.getBigDecimal("dec"));
        same(true, r.getBoolean("b"));
        same("Zé 😀", r.getString("s"));
        same(true, Arrays.equals(new byte[] {0, (byte) 0xff, 0x10}, r.getBytes("x")));
        same("2024-02-29", r.getDate("d").toString());
        same("2024-02-29 12:34:56.789", r.getTimestamp("ntz").toString());
        same("2024-02-29 12:34:56.789", r.getTimestamp("tz", Calendar.getInstance(TimeZone.getTimeZone("UTC"))).toString());
        same(false, r.next());
      }
    });
    check("lists, structs and maps", () -> {
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT list, st, m FROM jdbc.typed")) {
        same(true, r.next());
        Array list = r.getArray("list");
        same(Arrays.asList(1L, null, 3L), Arrays.asList((Object[]) list.getArray()));
        contains(r.getObject("st").toString(), "x");
        contains(r.getObject("m").toString(), "k");
      }
    });
    check("types as getObject", () -> {
      try (Statement s = c.createStatement();
          ResultSet r = s.executeQuery("SELECT i8, i16, i32, i64, f32, f64, dec, b, s, d, ntz FROM jdbc.typed")) {
        same(true, r.next());
        List<String> classes = new ArrayList<>();
        for (int i = 1; i <= r.getMetaData().getColumnCount(); i++) {
          classes.add(r.getObject(i).getClass().getSimpleName());
        }
        same(List.of("Byte", "Short", "Integer", "Long", "Double", "Double", "BigDecimal", "Boolean", "String", "Date", "Timestamp"), classes);
      }
    });
    check("types of a result's columns", () -> {
      try (Statement s = c.createStatement();
          ResultSet r = s.executeQuery("SELECT i8, i16, i32, i64, f32, f64, dec, b, s, x, d, ntz, list FROM jdbc.typed")) {
        List<Integer> types = new ArrayList<>();
        for (int i = 1; i <= r.getMetaData().getColumnCount(); i++) {
          types.add(r.getMetaData().getColumnType(i));
        }
        same(
            List.of(Types.TINYINT, Types.SMALLINT, Types.INTEGER, Types.BIGINT, Types.FLOAT, Types.DOUBLE, Types.DECIMAL, Types.BOOLEAN,
                Types.VARCHAR, Types.VARBINARY, Types.DATE, Types.TIMESTAMP, Types.ARRAY),
            types);
      }
    });
    check("digits of a decimal column", () -> {
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT i64, dec FROM jdbc.typed")) {
        same(12, r.getMetaData().getPrecision(2));
        same(3, r.getMetaData().getScale(2));
      }
    });
    check("literals", () -> {
      same("text", one(c, "SELECT 'text'"));
      same(true, one(c, "SELECT TRUE"));
      same(new BigDecimal("1.50"), one(c, "SELECT CAST('1.5' AS DECIMAL(5, 2))"));
      same("view", one(c, "SELECT arrow_cast('view', 'Utf8View')"));
      same("dictionary", one(c, "SELECT arrow_cast('dictionary', 'Dictionary(Int32, Utf8)')"));
      same("12:34:56", one(c, "SELECT TIME '12:34:56'").toString());
    });
    check("an unsigned number", () -> {
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT CAST(18 AS BIGINT UNSIGNED)")) {
        same(true, r.next());
        same(18L, r.getLong(1));
      }
    });
    check("NULL of every type", () -> {
      for (String type : List.of("TINYINT", "SMALLINT", "INT", "BIGINT", "REAL", "DOUBLE", "DECIMAL(9, 2)", "BOOLEAN", "VARCHAR", "BYTEA",
          "DATE", "TIMESTAMP", "TIMESTAMPTZ")) {
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT CAST(NULL AS " + type + ") AS v")) {
          same(true, r.next());
          same(null, type.equals("TIMESTAMPTZ") ? r.getTimestamp(1) : r.getObject(1));
          same(true, r.wasNull());
        }
      }
    });
    check("NULL as a number", () -> {
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT CAST(NULL AS INT) AS v")) {
        same(true, r.next());
        same(0, r.getInt(1));
        same(true, r.wasNull());
      }
    });
    check("an untyped NULL", () -> same(null, one(c, "SELECT NULL")));
  }

  private interface Setter {
    void set(PreparedStatement s) throws SQLException;
  }

  private static void parameters(Connection c) {
    check("setByte", () -> finds(c, "i8", s -> s.setByte(1, (byte) -8)));
    check("setShort", () -> finds(c, "i16", s -> s.setShort(1, (short) -16)));
    check("setInt", () -> finds(c, "i32", s -> s.setInt(1, -32)));
    check("setLong", () -> finds(c, "i64", s -> s.setLong(1, -9223372036854775807L)));
    check("setFloat", () -> finds(c, "f32", s -> s.setFloat(1, 0.5f)));
    check("setDouble", () -> finds(c, "f64", s -> s.setDouble(1, 0.25)));
    check("setBigDecimal", () -> finds(c, "dec", s -> s.setBigDecimal(1, new BigDecimal("-123.456"))));
    check("setBoolean", () -> finds(c, "b", s -> s.setBoolean(1, true)));
    check("setString", () -> finds(c, "s", s -> s.setString(1, "Zé 😀")));
    check("setBytes", () -> finds(c, "x", s -> s.setBytes(1, new byte[] {0, (byte) 0xff, 0x10})));
    check("setDate", () -> finds(c, "d", s -> s.setDate(1, Date.valueOf("2024-02-29"))));
    check("setTimestamp", () -> finds(c, "ntz", s -> s.setTimestamp(1, Timestamp.valueOf("2024-02-29 12:34:56.789"))));
    check("setTimestamp with a zone", () -> finds(c, "tz", s -> s.setTimestamp(1, Timestamp.valueOf("2024-02-29 12:34:56.789"))));
    check("setNull of every type", () -> {
      for (String column : List.of("i8", "i16", "i32", "i64", "f32", "f64", "dec", "b", "s", "x", "d", "ntz", "tz")) {
        try (PreparedStatement s = c.prepareStatement("SELECT count(*) FROM jdbc.typed WHERE " + column + " = ?")) {
          s.setNull(1, Types.NULL);
          same(0L, only(s.executeQuery()));
        }
      }
    });
    check("a parameter under CAST", () -> {
      try (PreparedStatement s = c.prepareStatement("SELECT CAST(? AS INT) + 1 AS a, CAST(? AS VARCHAR) AS b")) {
        same(2, s.getParameterMetaData().getParameterCount());
        s.setInt(1, 41);
        s.setString(2, "O'Reilly");
        try (ResultSet r = s.executeQuery()) {
          same(true, r.next());
          same(42L, r.getLong(1));
          same("O'Reilly", r.getString(2));
        }
      }
    });
    check("bound again", () -> {
      try (PreparedStatement s = c.prepareStatement("SELECT count(*) FROM jdbc.counted WHERE v BETWEEN ? AND ?")) {
        for (long high : new long[] {10, 20, 5}) {
          s.setLong(1, 1);
          s.setLong(2, high);
          same(high, only(s.executeQuery()));
        }
      }
    });
    check("a missing parameter", () -> {
      fails(() -> {
        try (PreparedStatement s = c.prepareStatement("SELECT count(*) FROM jdbc.counted WHERE v BETWEEN ? AND ?")) {
          s.setLong(1, 1);
          only(s.executeQuery());
        }
      });
      same(1L, one(c, "SELECT 1"));
    });
    check("EXECUTE AS with a parameter", () -> {
      update(c, "CREATE USER IF NOT EXISTS seen");
      try (PreparedStatement s = c.prepareStatement("EXECUTE AS USER \"local:seen\" SELECT concat(current_user, ?) AS t")) {
        same(1, s.getParameterMetaData().getParameterCount());
        same("t", s.getMetaData().getColumnLabel(1));
        s.setString(1, "!");
        same("seen!", only(s.executeQuery()));
      }
      contains(fails(() -> one(c, "EXECUTE AS USER \"local:seen\" SELECT count(*) FROM jdbc.counted")), "not found");
      same("admin", one(c, "SELECT current_user"));
    });
    check("columns of a prepared statement", () -> {
      try (PreparedStatement s = c.prepareStatement("SELECT v AS number, 'x' AS t FROM jdbc.counted WHERE v = ?")) {
        same(2, s.getMetaData().getColumnCount());
        same("number", s.getMetaData().getColumnLabel(1));
      }
    });
  }

  private static void finds(Connection c, String column, Setter setter) throws Exception {
    try (PreparedStatement s = c.prepareStatement("SELECT count(*) FROM jdbc.typed WHERE " + column + " = ?")) {
      setter.set(s);
      same(1L, only(s.executeQuery()));
    }
  }

  private static void metadata(Connection c) {
    check("catalogs", () -> contains(column(c.getMetaData().getCatalogs(), "TABLE_CAT").toString(), "lazaret"));
    check("schemas", () -> {
      TreeSet<String> all = column(c.getMetaData().getSchemas(), "TABLE_SCHEM");
      same(true, all.containsAll(List.of("jdbc", "public", "information_schema", "system")));
      same("[jdbc]", column(c.getMetaData().getSchemas("lazaret", "jd%"), "TABLE_SCHEM").toString());
    });
    check("tables", () -> {
      DatabaseMetaData m = c.getMetaData();
      same("[added, bound, counted, few, typed]", column(m.getTables("lazaret", "jdbc", "%", null), "TABLE_NAME").toString());
      same("[counted]", column(m.getTables("lazaret", "jdbc", "count_d", null), "TABLE_NAME").toString());
      same("[few]", column(m.getTables("lazaret", "jdbc", null, new String[] {"VIEW"}), "TABLE_NAME").toString());
      same("[]", column(m.getTables("lazaret", "jdbc", "nothing", null), "TABLE_NAME").toString());
      same("[]", column(m.getTables("nothing", "jdbc", null, null), "TABLE_NAME").toString());
    });
    check("columns", () -> {
      List<String> found = new ArrayList<>();
      try (ResultSet r = c.getMetaData().getColumns("lazaret", "jdbc", "typed", "%")) {
        while (r.next()) {
          found.add(r.getString("COLUMN_NAME") + ":" + r.getInt("DATA_TYPE") + ":" + r.getInt("ORDINAL_POSITION"));
        }
      }
      same(16, found.size());
      same("i8:" + Types.TINYINT + ":1", found.get(0));
      same("i64:" + Types.BIGINT + ":4", found.get(3));
      same("dec:" + Types.DECIMAL + ":7", found.get(6));
      same("s:" + Types.VARCHAR + ":9", found.get(8));
      same("[s, st]", column(c.getMetaData().getColumns("lazaret", "jdbc", "typed", "s%"), "COLUMN_NAME").toString());
    });
    check("columns of everything", () -> {
      try (ResultSet r = c.getMetaData().getColumns(null, null, null, null)) {
        int n = 0;
        while (r.next()) {
          n++;
        }
        same(true, n > 50);
      }
    });
    check("keys", () -> {
      DatabaseMetaData m = c.getMetaData();
      for (ResultSet keys : List.of(m.getPrimaryKeys("lazaret", "jdbc", "counted"), m.getImportedKeys("lazaret", "jdbc", "counted"),
          m.getExportedKeys("lazaret", "jdbc", "counted"),
          m.getCrossReference("lazaret", "jdbc", "counted", "lazaret", "jdbc", "typed"))) {
        try (keys) {
          same(false, keys.next());
        }
      }
    });
    check("table types", () -> same("[SYSTEM TABLE, TABLE, VIEW]", column(c.getMetaData().getTableTypes(), "TABLE_TYPE").toString()));
    check("product", () -> {
      DatabaseMetaData m = c.getMetaData();
      same("Lazaret", m.getDatabaseProductName());
      same(true, m.getDatabaseProductVersion().length() > 2);
      same("\"", m.getIdentifierQuoteString());
      same(true, m.supportsGroupBy());
      same(false, m.supportsTransactions());
      same(true, m.getSQLKeywords().length() > 10);
    });
    check("every getter of the metadata", () -> {
      List<String> failed = new ArrayList<>();
      for (Method method : DatabaseMetaData.class.getMethods()) {
        if (method.getParameterCount() > 0 || method.getDeclaringClass() != DatabaseMetaData.class) {
          continue;
        }
        try {
          Object value = method.invoke(c.getMetaData());
          if (value instanceof ResultSet r) {
            r.close();
          }
        } catch (InvocationTargetException e) {
          failed.add(method.getName() + ": " + e.getCause());
        }
      }
      same(List.of(), failed);
    });
    check("metadata of who has no grant", () -> {
      try (Connection ana = connect("token", token)) {
        same("[]", column(ana.getMetaData().getTables("lazaret", "jdbc", "%", null), "TABLE_NAME").toString());
        same(false, column(ana.getMetaData().getSchemas(), "TABLE_SCHEM").contains("jdbc"));
      }
    });
  }

  private static void errors(Connection c) {
    check("a syntax error", () -> contains(fails(() -> one(c, "SELEC 1")), "at line 1, column 1"));
    check("a missing table", () -> contains(fails(() -> one(c, "SELECT * FROM missing")), "table \"lazaret.public.missing\" not found"));
    check("an error while it runs", () -> {
      fails(() -> one(c, "SELECT 10 / (v - 5) FROM jdbc.counted"));
      same(1L, one(c, "SELECT 1"));
    });
    check("an error of an update", () -> contains(fails(() -> update(c, "DROP TABLE jdbc.missing")), "not found"));
    check("no privilege", () -> {
      try (Connection ana = connect("token", token)) {
        contains(fails(() -> one(ana, "SELECT * FROM jdbc.counted")), "not found");
      }
    });
    check("what is not built", () -> contains(fails(() -> update(c, "DELETE FROM jdbc.counted")), "not supported yet"));
  }

  private static void cancelling(Connection c) {
    check("cancel", () -> {
      try (Connection own = admin(); Statement s = own.createStatement()) {
        CompletableFuture<String> outcome = CompletableFuture.supplyAsync(() -> {
          try (ResultSet r = s.executeQuery(ENDLESS)) {
            return "rows: " + r.next();
          } catch (SQLException e) {
            return "error: " + e.getMessage();
          }
        });
        while (running(c) == 0) {
          Thread.onSpinWait();
        }
        s.cancel();
        contains(outcome.get(30, TimeUnit.SECONDS), "error");
      }
      while (running(c) > 0) {
        Thread.onSpinWait();
      }
      same(1L, one(c, "SELECT 1"));
    });
    check("close without reading to the end", () -> {
      try (Connection own = admin(); Statement s = own.createStatement()) {
        ResultSet r = s.executeQuery("SELECT a.value FROM generate_series(1, 10000000) a CROSS JOIN generate_series(1, 10000000) b");
        same(true, r.next());
        r.close();
        same(1L, one(own, "SELECT 1"));
      }
    });
  }

  private static long running(Connection c) throws SQLException {
    return (Long) one(c, "SELECT count(*) FROM system.audit WHERE status = 'running' AND statement = '" + ENDLESS + "'");
  }

  // --- helpers ---

  private static void check(String name, Body body) {
    String error = null;
    try {
      body.run();
    } catch (Throwable e) {
      StringBuilder text = new StringBuilder(e.toString());
      for (Throwable cause = e.getCause(); cause != null; cause = cause.getCause()) {
        text.append(", because ").append(cause);
      }
      for (StackTraceElement frame : e.getStackTrace()) {
        if (frame.getClassName().startsWith("JdbcCheck")) {
          text.append(" at line ").append(frame.getLineNumber());
        }
      }
      error = text.toString();
    }
    byte[] line = ("{\"check\":" + json(name) + ",\"error\":" + (error == null ? "null" : json(error)) + "}\n").getBytes(StandardCharsets.UTF_8);
    System.out.write(line, 0, line.length);
    System.out.flush();
  }

  private static String json(String text) {
    StringBuilder out = new StringBuilder("\"");
    for (char ch : text.toCharArray()) {
      out.append(ch == '"' || ch == '\\' || ch < ' ' ? String.format("\\u%04x", (int) ch) : String.valueOf(ch));
    }
    return out.append('"').toString();
  }

  private static Connection admin() throws SQLException {
    return connect("user", "admin", "password", password);
  }

  private static Connection connect(String... properties) throws SQLException {
    Properties all = new Properties();
    all.put("useEncryption", "false");
    for (int i = 0; i < properties.length; i += 2) {
      all.put(properties[i], properties[i + 1]);
    }
    return DriverManager.getConnection("jdbc:arrow-flight-sql://" + address + "/", all);
  }

  private static int update(Connection c, String sql) throws SQLException {
    try (Statement s = c.createStatement()) {
      return s.executeUpdate(sql);
    }
  }

  private static Object one(Connection c, String sql) throws SQLException {
    try (Statement s = c.createStatement()) {
      return only(s.executeQuery(sql));
    }
  }

  /** The value of the last row; reads to the end, where errors may wait. */
  private static Object only(ResultSet result) throws SQLException {
    try (result) {
      if (!result.next()) {
        throw new AssertionError("no row");
      }
      Object value = result.getObject(1);
      while (result.next()) {
        value = result.getObject(1);
      }
      return value;
    }
  }

  private static long audited(Connection c, String sql) throws SQLException {
    return (Long) one(c, "SELECT count(*) FROM system.audit WHERE statement = '" + sql.replace("'", "''") + "'");
  }

  private static TreeSet<String> column(ResultSet result, String name) throws SQLException {
    TreeSet<String> values = new TreeSet<>();
    try (result) {
      while (result.next()) {
        values.add(result.getString(name));
      }
    }
    return values;
  }

  private static SQLException fails(Body body) throws Exception {
    try {
      body.run();
    } catch (SQLException e) {
      return e;
    }
    throw new AssertionError("it did not fail");
  }

  private static void same(Object expected, Object got) {
    if (!Objects.equals(expected, got)) {
      throw new AssertionError("expected " + expected + ", got " + got);
    }
  }

  private static void contains(SQLException error, String part) {
    StringBuilder all = new StringBuilder();
    for (Throwable e = error; e != null; e = e.getCause()) {
      all.append(e).append('\n');
    }
    contains(all.toString(), part);
  }

  private static void contains(String text, String part) {
    if (!text.contains(part)) {
      throw new AssertionError("\"" + part + "\" is not in: " + text);
    }
  }
}
