"""The course for a class without network: wheels, base weights and notebooks in one folder.

`make` fills the folder, `foresee` says before what that takes, and `install.py` goes into it.
"""
