from .routes import create_explorer as create_explorer
from .space import Layout as Layout
from .space import Space as Space
