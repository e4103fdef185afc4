"""PCS engine on torch.compile."""
