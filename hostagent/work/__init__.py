"""Carries decisions out: the runner, recovery, and a worker for each kind of step.

Everything from outside comes in through core.ports; nothing here imports an adapter.
"""
