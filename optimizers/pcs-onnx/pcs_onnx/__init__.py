"""Export to ONNX, and a backbone that runs what was exported."""
