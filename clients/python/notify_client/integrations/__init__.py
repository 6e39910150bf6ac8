"""Integrations with task queues, which publish what happens to each job: one module for each, which the user imports."""
