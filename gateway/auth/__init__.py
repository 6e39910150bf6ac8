"""Auth: turns a token into a grant, with the configured keys, or by asking the team's own backend."""
