"""The graphs of an artifact: modules that export, and the writers of ONNX and TorchScript."""
