"""Runs the work of commands on clusters; the jobs, workers and records are those of a single machine."""
