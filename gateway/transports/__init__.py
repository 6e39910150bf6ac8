"""The ways between a browser and the feed; none of them knows of another."""
