"""Helpers that the experiments share: command line, run folder, plots, tables, estimates."""
