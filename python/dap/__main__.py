"""``python -m dap``: the command line."""

from dap.cli.main import main

if __name__ == "__main__":
    main()
