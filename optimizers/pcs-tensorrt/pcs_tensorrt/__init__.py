"""PCS on TensorRT."""
