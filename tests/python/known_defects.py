"""What the server still does otherwise than a driver or a user expects: test, and why it fails.

A line goes when its defect does; docs/known-defects.md says the same to users.
"""

KNOWN = {
    "test_formats.py::test_malformed_parquet[PARQUET-1481]": "whoever creates an external table is told the whole path of a damaged file",
}
