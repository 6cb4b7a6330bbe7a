"""`python -m asynclb` is `asynclb`."""

from asynclb.cli import main

if __name__ == "__main__":
    main()
