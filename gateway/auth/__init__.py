"""Who a caller is: token -> Grant, by keys that were configured or by asking the team's own backend."""
