"""What shows that the forms are equal: verification by numbers, proof by algebra."""
