import gc

# Tracing makes many objects and few cycles: at Python's thresholds the collector takes a tenth of
# the time, here and in the processes of tests/programs.
gc.set_threshold(10_000, 10, 100)
