"""`python -m harness.cli` is `assay`."""

from harness.cli import main

main()
