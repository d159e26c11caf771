"""python -m r2plus1d: the console command."""

from r2plus1d.cli import main

if __name__ == "__main__":
    main()
