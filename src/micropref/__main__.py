"""`python -m micropref` is the command `micropref`."""

from micropref.cli import app

if __name__ == "__main__":
    app()
