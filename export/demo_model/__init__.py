"""A small SAM 3 that the repository can train itself, and the garage scenes that it is trained on.

The scenes need numpy and Pillow only; everything about the network needs torch and sam3, and is imported late.
"""
