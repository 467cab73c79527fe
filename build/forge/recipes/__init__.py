"""What is to be built: recipes as data."""
