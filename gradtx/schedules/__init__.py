"""Schedules: pure functions from a step count to a value."""
