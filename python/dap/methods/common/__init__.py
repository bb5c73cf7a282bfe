"""What several methods share: their registry, guides, references, modes, surrogates, losses and constraints."""
