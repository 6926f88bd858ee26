"""`python -m cli`, the same as `piropiro`."""

from cli.main import main

if __name__ == "__main__":
    main()
