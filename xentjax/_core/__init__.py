"""What every package of xentjax is built of: checks of arguments, dtypes, accurate sums."""
