"""The same graphs by other runtimes than ONNX Runtime: lower bounds and schedules, without a GPU."""
