"""Converters: from instance tables to the formats of training and review programs."""
