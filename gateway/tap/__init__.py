"""Taps: publish what happens in a queue of another system, whose workers know nothing of the gateway."""
