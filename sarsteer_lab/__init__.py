"""SARSteer Lab: look inside an audio-language model, and steer what it does with a spoken request."""

__version__ = "0.1.0"
