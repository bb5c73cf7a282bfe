"""The command line: one file per command. Torch is imported by the commands that need it, when they run."""
