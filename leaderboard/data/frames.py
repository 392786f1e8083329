"""The one place that names pandas, which comes with Streamlit."""

from __future__ import annotations

import pandas  # type: ignore[import-untyped, unused-ignore]

DataFrame = pandas.DataFrame
array = pandas.array
concat = pandas.concat
missing = pandas.isna
read_parquet = pandas.read_parquet
to_numeric = pandas.to_numeric
