"""From expressions to array programs: the operations, their adjoints, and one lowering a form."""
