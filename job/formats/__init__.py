"""File formats: GVA JSON, mask NPZ, images, overlays."""
