"""Pre-trained systems on Mini: training, measuring and shipping them."""
