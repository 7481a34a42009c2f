"""Maps that are ready to be iterated: affine, PageRank, value iteration, implicit GNN, anchored objective."""
