"""Ray-orchestrated sweeps of fine-tuning objectives."""

__version__ = "0.1.0"
