"""Presentation of results: terminal output, figures and HTML reports. It imports no other subpackage."""
