"""`python -m hogpipe` is the same as `hogpipe`."""

from hogpipe.cli import main

main()
