"""Row statistics of logits: the one operation behind every loss of this package."""

from xentjax.ops.dispatch import row_statistics as row_statistics
from xentjax.ops.registry import Implementation as Implementation, backend as backend
from xentjax.ops.rows import (
    Layer as Layer,
    Mask as Mask,
    Requested as Requested,
    Rows as Rows,
    RowStatistics as RowStatistics,
    Scalars as Scalars,
    Target as Target,
)
