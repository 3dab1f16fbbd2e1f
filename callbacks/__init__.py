"""Callbacks: figures, measurements and checkpoints beside the training loop. None of them changes what is trained."""

from pixelgan_lightning.callbacks.cluster_accuracy import ClusterAccuracy
from pixelgan_lightning.callbacks.evaluation import EvaluationCallback
from pixelgan_lightning.callbacks.figure_logging import log_figures
from pixelgan_lightning.callbacks.information import InformationDecomposition
from pixelgan_lightning.callbacks.latent_scatter import LatentScatter
from pixelgan_lightning.callbacks.marginal_likelihood import MarginalLikelihood
from pixelgan_lightning.callbacks.prediction_table import PredictionTable
from pixelgan_lightning.callbacks.run_checkpoint import RunCheckpoint
from pixelgan_lightning.callbacks.sample_grid import SampleGrid
from pixelgan_lightning.callbacks.stop_on_signal import StopOnSignal
from pixelgan_lightning.training.averaging import ExponentialMovingAverage

__all__ = [
    "ClusterAccuracy",
    "EvaluationCallback",
    "ExponentialMovingAverage",
    "InformationDecomposition",
    "LatentScatter",
    "MarginalLikelihood",
    "PredictionTable",
    "RunCheckpoint",
    "SampleGrid",
    "StopOnSignal",
    "log_figures",
]
