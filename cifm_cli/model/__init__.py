"""The network: layer, masking, heads, objectives and checkpoints. Letters follow the equations of the paper."""
