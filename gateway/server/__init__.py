"""uvicorn, hardened: direct writes, deadlines, paced shutdown."""
