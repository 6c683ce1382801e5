"""Measured JSON as documentation: tables between comments of the pages, and pictures."""
