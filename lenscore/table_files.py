"""Tables that users bring: csv, tsv and parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from storage_layouts.errors import InputError, first_line


def read_table_file(path: Path, where: str) -> pd.DataFrame:
    """A table by its ending; every field of a csv or tsv is text, and none is missing.

    `where` names it in errors. Raises InputError if it cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path).to_pandas()  # pd.read_parquet would lend Arrow's threads a file of Python's
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise InputError(f"{where}: not a readable table: {first_line(error)}") from None
