"""The `farm` command: one file per group of commands; `main` puts them together."""
