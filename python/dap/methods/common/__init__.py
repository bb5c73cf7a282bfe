"""Code that several methods share: registry, guides, references, modes, surrogates, losses and constraints."""
