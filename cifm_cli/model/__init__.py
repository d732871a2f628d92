"""The paper's core: layer, masking, network, objective. Letters follow the equations."""
