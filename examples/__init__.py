"""What a user does with the package, from one end to the other."""
