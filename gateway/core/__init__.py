"""Decisions without I/O: no await, no clock, no socket; the standard library and msgspec only."""
