"""The stages of one image, their order and their threads."""
