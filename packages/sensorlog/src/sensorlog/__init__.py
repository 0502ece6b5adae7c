"""What the SensorLog operator, services and command line share, and nothing else."""

from importlib.metadata import version

__version__ = version("sensorlog")
