"""This host itself: its facts, its locks, and the commands that run on it."""
