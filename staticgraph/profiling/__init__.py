"""Profiling of compiled functions: data first (`report`), then how it is measured and shown."""
