"""`python -m llamavae.cli`, which is what launchers such as torchrun start."""

from llamavae.cli.app import main

if __name__ == "__main__":
    main()
