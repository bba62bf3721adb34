"""`python -m llamavae`, the command as a module. Launchers such as torchrun start it this way."""

from llamavae.cli.app import main

if __name__ == "__main__":
    main()
