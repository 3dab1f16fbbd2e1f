"""What lies on disk: checkpoints, exported models, folders of runs and their configurations, images."""
