"""The floor: keys, Parquet layout, commit files, features as tensors, DuckDB tables and views."""
