"""`python -m cli`, the same as `piropiro`."""

import sys

if __name__ == "__main__":
    try:
        from cli.main import main

        main()
    except ModuleNotFoundError as error:
        sys.exit(f"piropiro: the installation lacks {error.name}: run `make clean`, then try again")
