from .decoding import DecodeReport as DecodeReport
from .decoding import decode_file as decode_file
from .encoding import BulkReport as BulkReport
from .encoding import encode_file as encode_file
from .engine import RayEngine as RayEngine
from .scoring import ScoreReport as ScoreReport
from .scoring import score_file as score_file
from .task import check_paths as check_paths
