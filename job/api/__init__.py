"""The Python API; `import sam3_annotate` hands its names on."""
