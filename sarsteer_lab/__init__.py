"""SARSteer Lab: look inside an audio-language model, and steer what it does with a spoken request.

The names of the stub beside this file are the public API. Each is imported when it is first asked
for (PEP 562), so that importing the package is cheap: torch and transformers are only imported by
the modules that need them.
"""

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
