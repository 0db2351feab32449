"""What the pieces of a vocabulary are worth, and tables that give them bytes by it."""
