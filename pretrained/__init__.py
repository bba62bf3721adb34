"""How the models that come with the library are made and measured."""
