"""Memory plans: where the intermediate tensors of a run stand in one block, for all shapes, ahead of time."""
