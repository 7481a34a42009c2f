"""Networks from what people have (modules, genomes, graphs, matrices) and back."""
