"""In what two packed datasets, or two runs, differ: see README.md."""
