"""The command-line programs: each a `Config` dataclass and `main(config)`."""
