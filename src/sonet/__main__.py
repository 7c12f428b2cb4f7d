"""`python -m sonet` is `sonet`, and so is `torchrun ... -m sonet`."""

from sonet.cli import main

if __name__ == "__main__":
    main()
