"""The values that settings can have, without imports, so that recipes load fast."""

from typing import Literal

InjectionName = Literal["memory", "soft_prompt", "add", "memory+add", "memory+soft_prompt"]
EncoderTraining = Literal["frozen", "lora", "full"]
DecoderTraining = Literal["frozen", "heads", "lora", "full"]
Pooling = Literal["cls", "mean", "last", "attention"]
KLRule = Literal["none", "free_bits", "dimension_mask", "sentence_threshold"]
