from .conditions import (
    Condition as Condition,
)
from .conditions import (
    EncoderCondition as EncoderCondition,
)
from .conditions import (
    LabelCondition as LabelCondition,
)
from .conditions import (
    VectorCondition as VectorCondition,
)
from .conditions import (
    WordVectorCondition as WordVectorCondition,
)
from .conditions import (
    load_condition as load_condition,
)
from .cvae import InvertibleCVAE as InvertibleCVAE
from .pairs import Pairs as Pairs
from .pairs import make_pairs as make_pairs
from .ranking import Ranking as Ranking
