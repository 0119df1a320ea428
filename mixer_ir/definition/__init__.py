"""What every node means: the one evaluator by definition, on tensors and on symbols."""
