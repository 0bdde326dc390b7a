"""What the server still does otherwise than a driver or a user expects: test, and why it fails.

A line goes when its defect does; docs/known-defects.md says the same to users.
"""

KNOWN = {
    "test_adbc.py::test_several_rows_of_parameters": "rows of parameters of which one is NULL give results that differ in nullability",
    "test_adbc.py::test_parameter_schema": "the type of a parameter is not inferred from a CAST around it",
    "test_adbc.py::test_error[SELECT 1 + FROM t-INVALID_ARGUMENT-syntax error]": "FROM is taken for a column where an operand is missing",
    "test_adbc.py::test_error[SELECT missing(1)-NOT_FOUND-missing]": "an unknown function is INVALID_ARGUMENT",
    "test_formats.py::test_malformed_parquet[PARQUET-1481]": "whoever creates an external table is told the whole path of a damaged file",
    "test_jdbc.py::test_jdbc[18.3.0-start in a catalog]": "JDBC 18.3.0 closes its channel twice when the property catalog is set",
    "test_jdbc.py::test_jdbc[18.3.0-digits of a decimal column]": "result columns carry no PRECISION and SCALE",
    "test_jdbc.py::test_jdbc[18.3.0-a parameter under CAST]": "the type of a parameter is not inferred from a CAST around it",
}
