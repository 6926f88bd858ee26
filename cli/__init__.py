"""The `piropiro` command: composition of the other packages into processes."""
