"""Imports pandas (a dependency of Streamlit) in one place, because it has no type hints."""

from __future__ import annotations

import pandas  # type: ignore[import-untyped, unused-ignore]

DataFrame = pandas.DataFrame
array = pandas.array
concat = pandas.concat
missing = pandas.isna
read_parquet = pandas.read_parquet
to_numeric = pandas.to_numeric
