from .prior import aggregate_posterior as aggregate_posterior
from .prior import fit_prior as fit_prior
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .recipe import recipe_names as recipe_names
from .run import TrainResult as TrainResult
from .run import train as train
