"""Runs the command line for `python -m atrous`."""

from atrous.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
