"""`python -m llamavae.cli`, which is what launchers such as torchrun start."""

from llamavae.cli.app import main

main()
