"""The one network that is teacher and student of every family."""
