"""Training. `loop.py` holds the loop; `launch.launch` starts it from the command line or from Python."""
