"""Ready-made experiment configurations (YAML), shipped with the package."""
