"""Writing texts with a trained model: cached reading, sampling, streaming."""

from megadape.generation.engine import Listener, News, generate
from megadape.generation.reading import Reader
from megadape.generation.settings import GenerationSettings, generation_settings
from megadape.generation.writing import Generation

__all__ = ["Generation", "GenerationSettings", "Listener", "News", "Reader", "generate", "generation_settings"]
