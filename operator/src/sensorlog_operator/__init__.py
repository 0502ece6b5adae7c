"""The Kubernetes operator of SensorLogPipeline."""
