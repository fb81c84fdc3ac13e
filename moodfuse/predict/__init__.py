"""Labels for files with an exported model."""
