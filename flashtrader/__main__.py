"""`python -m flashtrader`, which is what torchrun starts."""

from flashtrader.cli import main

if __name__ == "__main__":
    main()
