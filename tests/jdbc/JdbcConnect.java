import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.nio.charset.StandardCharsets;

/** Asks behind each JDBC URL that it is given who it is there. For each it prints a line of JSON: the answer, or the error with its causes. */
public final class JdbcConnect {
  public static void main(String[] urls) {
    for (String url : urls) {
      StringBuilder line = new StringBuilder();
      try (Connection c = DriverManager.getConnection(url);
          Statement s = c.createStatement();
          ResultSet r = s.executeQuery("SELECT current_user")) {
        r.next();
        line.append("{\"user\":").append(json(r.getString(1))).append('}');
      } catch (SQLException | RuntimeException e) {
        StringBuilder text = new StringBuilder(e.toString());
        for (Throwable cause = e.getCause(); cause != null; cause = cause.getCause()) {
          text.append(", because ").append(cause);
        }
        line.append("{\"error\":").append(json(text.toString())).append('}');
      }
      byte[] bytes = line.append('\n').toString().getBytes(StandardCharsets.UTF_8);
      System.out.write(bytes, 0, bytes.length);
      System.out.flush();
    }
    // The driver's threads are no daemons.
    System.exit(0);
  }

  private static String json(String text) {
    StringBuilder out = new StringBuilder("\"");
    for (char ch : text.toCharArray()) {
      out.append(ch == '"' || ch == '\\' || ch < ' ' ? String.format("\\u%04x", (int) ch) : String.valueOf(ch));
    }
    return out.append('"').toString();
  }
}
