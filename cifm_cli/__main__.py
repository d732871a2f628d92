"""`python -m cifm_cli` is `cifm`."""

from cifm_cli.app import run

run()
