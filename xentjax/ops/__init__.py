"""Row statistics of logits: the one operation behind every loss of this package."""

from xentjax.ops.statistics import (
    IMPLEMENTATIONS as IMPLEMENTATIONS,
    Rows as Rows,
    RowStatistics as RowStatistics,
    row_statistics as row_statistics,
)
