"""Documents from tables, a row each, under the names that conf/data/ says: harness/data/tables.py reads them."""

from harness.data.tables import CsvSource, HfSource, JsonlSource

__all__ = ["CsvSource", "HfSource", "JsonlSource"]
