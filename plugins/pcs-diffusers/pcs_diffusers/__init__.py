"""Backbone families on diffusers classes."""
