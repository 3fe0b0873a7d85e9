"""`python -m job` is the console script `sam3-annotate`."""

from job.cli.main import main

if __name__ == "__main__":
    main()
