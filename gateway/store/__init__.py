"""Redis: the log of each channel, and the one connection that hears announcements."""
