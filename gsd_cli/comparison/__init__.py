"""`gsd bench`: contenders, metrics, tables and reports."""
