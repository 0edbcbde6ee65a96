"""Structured pruning: gates, the size that they expect, what pushes them to a target, and the surgery that cuts."""
