from .batches import Collator as Collator
from .batches import LengthGroupedSampler as LengthGroupedSampler
from .batches import steps_per_epoch as steps_per_epoch
from .sentences import SentenceData as SentenceData
from .sentences import prepare as prepare
from .sentences import sentence_vectors as sentence_vectors
from .streams import SentenceStream as SentenceStream
