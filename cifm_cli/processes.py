"""Processes of this machine that share work: the one place where they are started, heard and ended."""
