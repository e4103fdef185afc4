"""Subjects from folders of pictures, and pictures into files."""
