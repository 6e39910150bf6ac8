"""The demo: a page, and pretend workers."""
