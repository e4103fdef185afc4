"""Claims: named properties of a system, measured on one observed fit. A recipe's ``[check]`` names them."""
