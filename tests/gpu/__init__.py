"""What the graphs cost on a GPU, and where ONNX Runtime places them there; without a GPU."""
