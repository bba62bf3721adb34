"""The demo: examples of a pretrained model, fine-tuning on a file of sentences, and a report.

The model is `small`, whose backbones are downloaded if missing, or `mini` if no source can be
reached. The fine-tune is `train` with the recipe `fine-tune`. Without a file the demo
writes one, from the grammar of `llamavae.corpora.factors`, whose parser can then tell sentences
from other texts.
"""

from llamavae.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
