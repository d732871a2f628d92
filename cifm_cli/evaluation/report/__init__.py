"""What an evaluation shows and writes: tables, the HTML page and the files."""
