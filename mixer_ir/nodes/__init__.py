"""What a declaration is made of: expressions, matrices, processes, and how they read."""
