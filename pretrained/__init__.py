"""How the bundled models are made and measured."""
