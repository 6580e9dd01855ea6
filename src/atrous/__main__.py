"""`python -m atrous` is `atrous`."""

from atrous.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
