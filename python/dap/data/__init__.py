"""Labelled images on their way in and out: sources, class names and maps, atomic files, the built-in data."""
