"""What a trained model is worth, as numbers, tables and figures."""
