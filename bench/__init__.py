"""Benchmarks: real processes, measured from outside over HTTP and Redis alone."""
