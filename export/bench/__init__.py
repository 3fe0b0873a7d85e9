"""Measures exported models beside eager sam3, at full size with random weights and with the demo model."""
