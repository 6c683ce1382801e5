"""The one table of tolerances: relative to the float64 oracle, by dtype."""

# A few ulp: values are O(1) sums computed in the dtype itself (or in float32 for half precision).
VALUE = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 1e-6, "float16": 1e-6}
# Gradients have the input's dtype, so half precision is limited by its own rounding.
GRADIENT = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
# Of a loss in its logits, float32: no sum over rows and no second derivative lies between.
LOSS_GRADIENT = 1e-6
# Of random configurations, in what is computed in float32: relative to the size of the terms.
RANDOM_VALUE = 2e-6
RANDOM_GRADIENT = 1e-5
# Of one float32 program against another of the same function, relative to sums of O(1) terms.
TRANSFORMED = 2e-5
